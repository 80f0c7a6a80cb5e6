"""What a server of processes imports first: what it imports then stays, and is not looked through for garbage."""

import gc

gc.disable()
