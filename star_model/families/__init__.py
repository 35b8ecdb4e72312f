"""The published families of models, a file each; :mod:`star_model.families.registry` joins them. No PyTorch here."""
