"""The pretrained classifier. `families.py` and `path.py` import no transformers, so this file imports none of the others."""
