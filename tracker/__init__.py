"""One checkpoint in, one record out."""
