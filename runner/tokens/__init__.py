"""How many tokens a request comes to: a quick estimate for the limits, one that learns from the answers, a true
upper bound for the budget, and an exact count where a vocabulary is installed."""

from runner.tokens.estimates import Estimate, Estimates
from runner.tokens.text import estimate, of_text, upper_bound
from runner.tokens.vocabulary import Vocabularies, Vocabulary

__all__ = ["Estimate", "Estimates", "Vocabularies", "Vocabulary", "estimate", "of_text", "upper_bound"]
