"""A bundle: target, draft models and tokenizer that belong together."""
def save(*a): raise NotImplementedError
