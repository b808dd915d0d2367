"""All five apps on the digits sample, from nothing to one page: `make demo` runs `python -m ci.demo`."""
