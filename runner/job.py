"""TEMPORARY stand-in while the real one is written."""
from __future__ import annotations
from dataclasses import dataclass, field, asdict
from decimal import Decimal
from pathlib import Path
from typing import Any, Mapping
import hashlib, orjson
@dataclass(frozen=True)
class Limits:
    requests_per_minute: int|None=None
    tokens_per_minute: int|None=None
    concurrency: int|None=None
@dataclass(frozen=True)
class Retry:
    attempts: int=6
    max_wait: float=600.0
@dataclass(frozen=True)
class Batch:
    poll: float=30.0
    queue_wait: float=300.0
@dataclass(frozen=True)
class Job:
    name: str
    path: Path|None
    endpoint: str|None
    model: str|None
    input: str|None
    output: Path|None
    key: str|None=None
    keep: tuple|None=None
    output_field: str="result"
    request: Mapping=field(default_factory=dict)
    schema: Mapping|None=None
    schema_name: str|None=None
    on_length: str="fail"
    on_content_filter: str="fail"
    on_refusal: str="fail"
    mode: str="online"
    deadline: Any=None
    batch: Batch=Batch()
    limits: Limits=Limits()
    retry: Retry=Retry()
    budget: Decimal|None=None
    dedupe: bool=False
    def meaning(self): return dict(endpoint=self.endpoint,model=self.model,request=self.request,schema=self.schema,key=self.key,dedupe=self.dedupe)
    def meaning_digest(self): return hashlib.sha256(orjson.dumps(self.meaning())).hexdigest()
    def frozen(self):
        d=asdict(self); d["path"]=str(self.path) if self.path else None; d["output"]=str(self.output) if self.output else None; d["budget"]=str(self.budget) if self.budget is not None else None
        return d
    @classmethod
    def thaw(cls,d):
        d=dict(d); d["path"]=Path(d["path"]) if d["path"] else None; d["output"]=Path(d["output"]) if d["output"] else None
        d["batch"]=Batch(**d["batch"]); d["limits"]=Limits(**d["limits"]); d["retry"]=Retry(**d["retry"]); d["budget"]=Decimal(d["budget"]) if d["budget"] else None
        return cls(**d)
    @property
    def accepts(self):
        if self.endpoint is None: return frozenset({"stop","tool_calls","length","content_filter","refusal","incomplete"})
        a={"stop","tool_calls"}
        for n in ("length","content_filter","refusal"):
            if getattr(self,"on_"+n)=="accept": a.add(n)
        return frozenset(a)
def read_job(path):
    from ruamel.yaml import YAML
    d=YAML(typ="safe",pure=True).load(path.read_text())
    d["path"]=path.resolve()
    if "input" in d: d["input"]=str((path.parent/d["input"]).resolve())
    else: d["input"]=None
    d["output"]=(path.parent/d["output"]).resolve() if "output" in d else None
    if "schema" in d: 
        d["schema_name"]=Path(d["schema"]).stem; d["schema"]=orjson.loads((path.parent/d["schema"]).read_bytes())
    if "keep" in d: d["keep"]=tuple(d["keep"])
    for k,c in (("limits",Limits),("retry",Retry),("batch",Batch)):
        if k in d: d[k]=c(**d[k])
    if "budget" in d: d["budget"]=Decimal(str(d["budget"]))
    return Job(**d)
def requests_job(i): return Job("requests",None,None,None,i,None,key="custom_id")
def parse_duration(t):
    t=str(t)
    for s,m in (("ms",.001),("s",1),("m",60),("h",3600)):
        if t.endswith(s): return float(t[:-len(s)])*m
    return float(t)
def parse_deadline(t): return t
def parse_money(t): return Decimal(t)
def parse_size(t): return int(float(t.replace("MiB",""))*2**20)
