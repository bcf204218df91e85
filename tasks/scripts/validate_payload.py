"""What the task runs: a program like any other, which knows nothing of netscript."""

from __future__ import annotations

import json
import os
import sys

wanted = json.loads(os.environ["NETSCRIPT_PAYLOAD"])
print("::progress 50 looking")
missing = [name for name in wanted["required"] if name not in wanted["payload"]]
for name in missing:
    print(f"there is no {name}", file=sys.stderr)
if missing:
    told = {"success": False, "error": f"missing: {', '.join(missing)}", "retry": False}
    print(json.dumps({**told, "data": {"missing": missing}}))
else:
    print(json.dumps({"valid": True, "members": sorted(wanted["payload"])}))
