"""The guided way from a float network to a quantized one."""
