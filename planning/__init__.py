"""Pure search and policy: values in, values out."""
