"""Synthetic chest CT studies with reports in BIMCV's style: parametric anatomy, findings with masks, two languages."""
