import http.client
import json

from kubernetes import client
from kubernetes.stream import portforward, stream
from kubernetes.stream.ws_client import ERROR_CHANNEL

from suite import Suite, pod


class Streams(Suite):
    def setUp(self):
        super().setUp()
        script = "echo one; echo two; mkdir /w; echo hello >/w/index.html; httpd -f -p 8080 -h /w"
        wanted = pod("p", script)
        wanted["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 8080}, "periodSeconds": 1}
        self.core.create_namespaced_pod(self.namespace, wanted)
        self.ready("p")

    def exec(self, command, **options):
        options = {"stderr": True, "stdin": False, "stdout": True, "tty": False, **options}
        # A client of its own: `stream` takes one over.
        core = client.CoreV1Api()
        return stream(core.connect_get_namespaced_pod_exec, "p", self.namespace, command=command, **options)

    def test_commands(self):
        self.assertEqual(self.exec(["sh", "-c", "echo out"]), "out\n")
        shell = self.exec(["sh"], stdin=True, _preload_content=False)
        shell.write_stdin("echo said; echo fault >&2\n")
        self.assertEqual(shell.readline_stdout(timeout=20), "said")
        self.assertEqual(shell.readline_stderr(timeout=20), "fault")
        shell.write_stdin("exit 3\n")
        shell.run_forever(timeout=20)
        self.assertEqual(shell.returncode, 3)
        many = self.exec(["seq", "1", "50000"])
        self.assertEqual(len(many.splitlines()), 50000)
        self.assertIn("/dev/pts/", self.exec(["tty"], tty=True, stdin=True))

    def test_a_command_that_is_not_there(self):
        shell = self.exec(["no-such"], _preload_content=False)
        shell.run_forever(timeout=20)
        status = json.loads(shell.read_channel(ERROR_CHANNEL))
        self.assertEqual((status["status"], status["reason"]), ("Failure", "InternalError"))

    def test_logs(self):
        read = self.core.read_namespaced_pod_log
        self.assertEqual(read("p", self.namespace), "one\ntwo\n")
        self.assertEqual(read("p", self.namespace, tail_lines=1), "two\n")
        self.core.create_namespaced_pod(self.namespace, pod("q", "echo a; sleep 1; echo b", restart="Never"))
        self.ready("q")
        followed = read("q", self.namespace, follow=True, _preload_content=False)
        self.assertEqual(b"".join(followed.stream()), b"a\nb\n")
        with self.assertRaises(client.ApiException) as caught:
            read("p", self.namespace, container="none")
        self.assertEqual(caught.exception.status, 400)
        self.assertEqual(json.loads(caught.exception.body)["reason"], "BadRequest")

    def test_ports(self):
        forwarded = portforward(client.CoreV1Api().connect_get_namespaced_pod_portforward, "p", self.namespace, ports="8080")
        connection = http.client.HTTPConnection("localhost")
        connection.sock = forwarded.socket(8080)
        connection.sock.setblocking(True)
        connection.request("GET", "/index.html")
        answer = connection.getresponse()
        self.assertEqual((answer.status, answer.read()), (200, b"hello\n"))
        self.assertIsNone(forwarded.error(8080))
