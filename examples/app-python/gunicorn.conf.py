# How gunicorn serves the app. On SIGTERM it answers the requests that it has, and ends.
import os

bind = f"0.0.0.0:{os.environ.get('PORT', '5000')}"
chdir = os.path.dirname(os.path.abspath(__file__))
workers = 2
worker_class = "gthread"
threads = 4
# The app is imported once, not by each worker.
preload_app = True
# Workers show here that they are alive. In memory, as the root file system is read-only.
worker_tmp_dir = "/dev/shm"
# Less than a pod's grace period, which is 30 s.
graceful_timeout = 20
