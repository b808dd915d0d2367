import sys
from pathlib import Path

# ci.demo is a package that runs from the root: python -m ci.demo
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
