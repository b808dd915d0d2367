import os

if os.environ.get("PT_HPU_LAZY_MODE") not in ("0", "1"):
    raise AssertionError("Habana's packages were imported before their mode was settled")
LAZY = os.environ["PT_HPU_LAZY_MODE"] == "1"


def record(call):
    """Append a call to the file that the test reads."""
    with open(os.environ["FAKE_HABANA_LOG"], "a") as log:
        log.write(f"{call}\n")


record(f"import in {'lazy' if LAZY else 'eager'} mode")
