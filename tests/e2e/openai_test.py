"""The unmodified `openai` client against a 4-rank cluster (openai_client_test.py does the talking)."""
import os
import pathlib
import subprocess
import sys

from cluster import Baton

with Baton(ranks=4) as server:
    script = pathlib.Path(__file__).with_name("openai_client_test.py")
    code = subprocess.run([sys.executable, str(script)], env=dict(os.environ, BATON_URL=server.url), timeout=500).returncode
sys.exit(code)
