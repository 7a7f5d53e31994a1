def test_probe(cli, server, requests_file, job_file, tmp_path):
    ended = cli("run", requests_file(3), "-o", "out.jsonl")
    print(ended)
    e2 = cli("run", job_file())
    print(e2)
    e2 = cli("status", "--json")
    print(e2)
    assert server.ledger.calls() == 3
