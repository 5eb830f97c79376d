"""
Tests for the manifests in C{contrib/kubernetes}: the opinion of a validator, and what
it cannot know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from portlisten._commands.drain import DrainOptions
from portlisten._commands.options import CommandOptions
from portlisten._commands.pause import PauseOptions, ResumeOptions
from portlisten._commands.status import StatusOptions
from portlisten._config import descriptions
from portlisten._config.settings import WorkerSettings
from tests.support import listeners, manifests
from tests.support.manifests import Container, containers, documents, option

try:
    import kubernetes_validate
except ImportError:
    cannotValidate = (
        "kubernetes-validate is not installed: pip install portlisten[test]"
    )
else:
    cannotValidate = ""

#: The manifests, and the oldest version of Kubernetes that each is for.
OLDEST = {
    "pod.yaml": (1, 25),
    "sidecar.yaml": (1, 29),
    "node.yaml": (1, 25),
    "node-hostport.yaml": (1, 25),
}

#: The manifests of a listener and its worker in one pod.
PODS = ["pod.yaml", "sidecar.yaml"]

#: The manifests of a listener for a node.
NODES = ["node.yaml", "node-hostport.yaml"]

PATH = "/run/portlisten/web.sock"

#: Seconds that a stopped listener or worker may need: its default grace, and one more
#: for its last messages.
STOP_SECONDS = 11

#: What breaks a manifest: the file, a part of its text, what stands there instead, and
#: a part of what the validator says.
BROKEN = {
    "a misspelt key": (
        *("pod.yaml", "readinessProbe:", "readynessProbe:"),
        "'readynessProbe' was unexpected",
    ),
    "a key of another object": (
        "pod.yaml",
        "          imagePullPolicy: IfNotPresent\n",
        "          hostNetwork: true\n",
        "'hostNetwork' was unexpected",
    ),
    "a wrong type": (
        *("pod.yaml", "periodSeconds: 5\n", "periodSeconds: 5s\n"),
        "'5s' is not of type 'integer'",
    ),
    "a port that is text": (
        *("pod.yaml", "containerPort: 8080", 'containerPort: "8080"'),
        "'8080' is not of type 'integer'",
    ),
    "an argument that is a number": (
        *("pod.yaml", '- "45"', "- 45"),
        "45 is not of type 'string'",
    ),
    "a command that is no list": (
        *("pod.yaml", f"[portlisten, status, --alive, {PATH}]", "portlisten status"),
        "'portlisten status' is not of type 'array'",
    ),
    "capabilities that are no list": (
        *("sidecar.yaml", "drop: [ALL]", "drop: ALL"),
        "'ALL' is not of type 'array'",
    ),
    "a probe that is not indented": (
        "pod.yaml",
        "            httpGet:\n              path: /healthz/http\n              port:",
        "            httpGet:\n            path: /healthz/http\n            port:",
        "'path', 'port' were unexpected",
    ),
    "a probe of the pod": (
        "pod.yaml",
        "      volumes:\n",
        "      livenessProbe:\n        tcpSocket: {port: 80}\n      volumes:\n",
        "'livenessProbe' was unexpected",
    ),
    "no selector": (
        "pod.yaml",
        "  selector:\n    matchLabels:\n      app.kubernetes.io/name: web\n  # A",
        "  # A",
        "'selector' is a required property",
    ),
    "an unknown version": (
        *("pod.yaml", "apiVersion: apps/v1\n", "apiVersion: apps/v2\n"),
        "api version apps/v2",
    ),
    "an unknown kind": (
        *("pod.yaml", "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets"),
        "kind PodDisruptionBudgets",
    ),
    "a strategy of Deployments": (
        *("node.yaml", "updateStrategy:", "strategy:"),
        "'strategy' was unexpected",
    ),
    "a label that YAML takes for true": (
        *("node.yaml", 'example.com/edge: "yes"', "example.com/edge: yes"),
        "True is not of type 'string'",
    ),
    "a volume without a name": (
        *("node.yaml", "- name: state\n          emptyDir", "- emptyDir"),
        "'name' is a required property",
    ),
}


def complaints(source: str, version: str) -> Iterator[str]:
    """
    Validate the documents of a file, and give what is wrong.
    """
    for document in manifests.parse(source):
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{document['kind']}: {list(error.path)}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield str(error.message)


class ValidTests(SynchronousTestCase):
    """
    Tests for what C{kubernetes-validate --strict} says.
    """

    if cannotValidate:
        skip = cannotValidate

    def test_complete(self) -> None:
        """
        Each manifest is looked at.
        """
        found = {each.name for each in manifests.FOLDER.glob("*.yaml")}
        self.assertEqual(found, set(OLDEST))

    def test_valid(self) -> None:
        """
        The manifests are valid for each version of Kubernetes that they are for, up to
        the newest that the validator knows.
        """
        known = [
            tuple(map(int, each.split(".")[:2]))
            for each in kubernetes_validate.utils.all_versions()
        ]
        for name, oldest in OLDEST.items():
            self.assertIn(oldest, known)
            for version in [each for each in known if each >= oldest]:
                found = complaints(manifests.text(name), "{}.{}".format(*version))
                self.assertEqual(list(found), [], (name, version))

    def test_older(self) -> None:
        """
        Native sidecars are unknown to versions before theirs, so the check can fail.
        """
        found = list(complaints(manifests.text("sidecar.yaml"), "1.27"))
        self.assertEqual(len(found), 1)
        self.assertIn("'restartPolicy' was unexpected", found[0])

    def test_broken(self) -> None:
        """
        A manifest with a mistake is refused, and the mistake is what is wrong with it.
        """
        self.assertGreater(len(BROKEN), 9)
        for what, (name, old, new, reason) in BROKEN.items():
            source = manifests.text(name)
            self.assertIn(old, source, what)
            found = list(complaints(source.replace(old, new, 1), "1.37"))
            self.assertEqual(len(found), 1, (what, found))
            self.assertIn(reason, found[0], what)


class ConsistencyTests(SynchronousTestCase):
    """
    Tests for what no validator can know: that the parts fit together.
    """

    if manifests.missing:
        skip = manifests.missing

    def test_commands(self) -> None:
        """
        portlisten understands its commands, and all mean the same path.
        """
        for name in OLDEST:
            for container in containers(name).values():
                for words in container.calls("twistd", "--nodaemon"):
                    self.understood(container, words)
                for command, options in CONTROL.items():
                    for words in container.calls("portlisten", command):
                        parsed = options()
                        parsed.parseOptions(words)
                        self.assertEqual(parsed["target"], PATH)
                known = sum(
                    len(container.calls("portlisten", each)) for each in CONTROL
                )
                self.assertEqual(len(container.calls("portlisten")), known)

    def understood(self, container: Container, words: list[str]) -> None:
        """
        Check the arguments of a listener or worker.

        @param words: those that follow C{twistd --nodaemon}.
        """
        _, command, *arguments = words
        if command == "portlisten":
            parsed = listeners.parse(*arguments)
            self.assertEqual(parsed["path"], PATH)
            self.assertEqual(parsed["allow-user"], [10002])
        else:
            self.assertEqual(worker(container).path, PATH)

    def test_users(self) -> None:
        """
        The listener and the app are different users of the same group, and each lets in
        the other.
        """
        for name in OLDEST:
            listener, *apps = containers(name).values()
            for app in apps:
                uid = app.security["runAsUser"]
                self.assertNotEqual(uid, listener.security["runAsUser"])
                (words,) = listener.calls("twistd", "--nodaemon")
                self.assertEqual(option(words, "allow-user"), str(uid))
                group = listener.security["runAsGroup"]
                self.assertEqual(app.security["runAsGroup"], group)
                # A worker accepts root by default.
                expected = {listener.security["runAsUser"]} - {0}
                self.assertEqual(set(worker(app).listenerUsers), expected)

    def test_channel(self) -> None:
        """
        All containers have the path's folder from the same place, and only the listener
        may write to it.
        """
        for name in OLDEST:
            places = []
            for each in containers(name).values():
                (mount,) = [
                    each
                    for each in each.spec["volumeMounts"]
                    if each["mountPath"] == PATH.rpartition("/")[0]
                ]
                own = "app" not in each.name
                self.assertEqual(mount.get("readOnly", False), not own)
                (volume,) = [
                    volume
                    for volume in each.pod["volumes"]
                    if volume["name"] == mount["name"]
                ]
                places.append(volume)
            self.assertEqual(places, places[:1] * len(places))
        (hostPath,) = {
            volume["hostPath"]["path"]
            for name in NODES
            for each in containers(name).values()
            for volume in each.pod["volumes"]
            if "hostPath" in volume
        }
        self.assertEqual(hostPath, PATH.rpartition("/")[0])

    def test_names(self) -> None:
        """
        The worker serves the listener's port, and the probe asks for that one.
        """
        for name in OLDEST:
            found = containers(name)
            (words,) = found["listener"].calls("twistd", "--nodaemon")
            port, _, number = option(words, "listen").partition("=")
            metrics = option(words, "metrics").rpartition(":")[2]
            if "app" in found:
                self.assertEqual(worker(found["app"]).names, (port,))
            ports = {
                each["name"]: each["containerPort"]
                for each in found["listener"].spec.get("ports", ())
            }
            if name == "node.yaml":
                # They would be the node's, and no second pod would get a place there.
                self.assertEqual(ports, {})
                continue
            self.assertEqual(ports, {port: int(number), "metrics": int(metrics)})
            self.assertGreaterEqual(min(ports.values()), 1024)
            if name in PODS:
                probe = found["listener"].spec["readinessProbe"]["httpGet"]
                self.assertEqual(probe, {"path": f"/healthz/{port}", "port": "metrics"})
                service = manifests.find(name, "Service")["spec"]["ports"]
                self.assertEqual([each["targetPort"] for each in service], [port])
        hosts = containers("node-hostport.yaml")["listener"].spec["ports"]
        self.assertEqual([each["hostPort"] for each in hosts], [80, 9100])

    def test_liveness(self) -> None:
        """
        No liveness probe asks for the health, which would end a listener that waits for
        its workers.
        """
        for name in OLDEST:
            probe = containers(name)["listener"].spec["livenessProbe"]
            self.assertEqual(
                probe["exec"], {"command": ["portlisten", "status", "--alive", PATH]}
            )
            # As long as the command itself waits for an answer.
            self.assertGreaterEqual(probe["timeoutSeconds"], 10)

    def test_labels(self) -> None:
        """
        What is drained is the app, by its label; and selectors find what they are for.
        """
        for name in PODS:
            found = containers(name)
            label = found["app"].environment["PORTLISTEN_LABEL"]
            (words,) = found["listener"].calls("portlisten", "drain")
            self.assertEqual(words[-2:], [PATH, label])
        for name in OLDEST:
            labels = [
                document["spec"]["template"]["metadata"]["labels"]
                for document in documents(name)
                if document["kind"] in ("Deployment", "DaemonSet")
            ]
            for document in documents(name):
                selector = document.get("spec", {}).get("selector")
                if selector:
                    self.assertIn(selector.get("matchLabels", selector), labels)

    def test_grace(self) -> None:
        """
        Before the kubelet kills a container, everything that is waited for has had its
        time: the comment's numbers are those of the commands, and their sum is the
        grace.
        """
        for name in PODS:
            found = containers(name)
            pause = float(found["listener"].calls("sleep")[0][0])
            (drain,) = found["listener"].calls("portlisten", "drain")
            drained = pause + float(option(drain, "timeout"))
            wait = float(found["app"].preStop[1])
            grace = found["app"].pod["terminationGracePeriodSeconds"]
            # A command needs a second or two to start on a busy machine.
            self.assertGreaterEqual(wait, drained + 5)
            self.assertGreaterEqual(grace, wait + STOP_SECONDS)
            self.assertEqual(told(name), [[10, 30, 11, 9]])
            self.assertEqual(sum([10, 30, 11, 9]), grace)
            self.assertEqual([pause, drained - pause, STOP_SECONDS], [10, 30, 11])
        for name in NODES:
            listener = containers(name)["listener"]
            pause = float(listener.calls("sleep")[-1][0])
            grace = listener.pod["terminationGracePeriodSeconds"]
            self.assertEqual(told(name)[0], [pause, STOP_SECONDS, 9])
            self.assertEqual(pause + STOP_SECONDS + 9, grace)
        app = containers("node.yaml")["app"]
        self.assertEqual(told("node.yaml")[1], [STOP_SECONDS, 9])
        self.assertEqual(app.pod["terminationGracePeriodSeconds"], STOP_SECONDS + 9)

    def test_restricted(self) -> None:
        """
        The pods keep the rules of the Pod Security Standard "restricted", and have no
        more than they need besides.
        """
        for name in PODS:
            for each in containers(name).values():
                security = each.security
                self.assertIs(security["runAsNonRoot"], True)
                self.assertGreater(security["runAsUser"], 0)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(each.pod))
                for volume in each.pod["volumes"]:
                    self.assertEqual(set(volume), {"name", "emptyDir"})
                for port in each.spec.get("ports", ()):
                    self.assertEqual(set(port), {"name", "containerPort"})
        for name in OLDEST:
            for each in containers(name).values():
                security = each.security
                self.assertIs(security["allowPrivilegeEscalation"], False)
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertNotIn("privileged", security)
                self.assertNotIn("sysctls", each.pod.get("securityContext", {}))
                self.assertIs(security["readOnlyRootFilesystem"], True)
                self.assertIs(each.pod["automountServiceAccountToken"], False)
                self.assertIn("memory", each.spec["resources"]["limits"])

    def test_node(self) -> None:
        """
        A node's listener has the one capability that it needs, and the namespace says
        that it allows that.
        """
        found = containers("node.yaml")
        self.assertEqual(
            found["listener"].security["capabilities"],
            {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        )
        other = containers("node-hostport.yaml")["listener"]
        for each in (found["app"], other):
            self.assertEqual(each.security["capabilities"], {"drop": ["ALL"]})
        namespace = manifests.find("node.yaml", "Namespace")["metadata"]
        self.assertEqual(
            namespace["labels"], {"pod-security.kubernetes.io/enforce": "privileged"}
        )
        nodes = [*documents("node.yaml"), *documents("node-hostport.yaml")]
        spaces = {each["metadata"].get("namespace") for each in nodes}
        self.assertEqual(spaces, {None, namespace["name"]})
        selectors = [each.pod["nodeSelector"] for each in (*found.values(), other)]
        self.assertEqual(selectors, [{"example.com/edge": "yes"}] * 3)

    def test_images(self) -> None:
        """
        Images have versions.
        """
        for name in OLDEST:
            for each in containers(name).values():
                self.assertRegex(each.spec["image"], r"^[\w./-]+:\d+(\.\d+)*$")

    def test_updates(self) -> None:
        """
        In an update, a new pod is there before an old one ends, where that is possible.
        """
        for name in OLDEST:
            for each in documents(name):
                if each["kind"] not in ("Deployment", "DaemonSet"):
                    continue
                key = "strategy" if each["kind"] == "Deployment" else "updateStrategy"
                update = each["spec"][key]["rollingUpdate"]
                expected = {"maxSurge": 1, "maxUnavailable": 0}
                if name == "node-hostport.yaml":
                    expected = {"maxUnavailable": 1}
                self.assertEqual(update, expected)

    def test_sidecar(self) -> None:
        """
        The two manifests of a pod differ only in where the listener stands, and in what
        only a sidecar has.
        """
        pod, sidecar = map(documents, PODS)
        spec = sidecar[0]["spec"]["template"]["spec"]
        (listener,) = spec.pop("initContainers")
        self.assertEqual(listener.pop("restartPolicy"), "Always")
        self.assertEqual(
            listener.pop("startupProbe")["exec"], listener["livenessProbe"]["exec"]
        )
        spec["containers"].insert(0, listener)
        self.assertEqual(sidecar, pod)


#: The commands that ask a listener, and their options.
CONTROL: dict[str, type[CommandOptions]] = {
    "drain": DrainOptions,
    "pause": PauseOptions,
    "resume": ResumeOptions,
    "status": StatusOptions,
}


def worker(container: Container) -> WorkerSettings:
    """
    Read the endpoint description of a worker.
    """
    (words,) = container.calls("twistd", "--nodaemon")
    arguments, named = descriptions.split(option(words, "listen"))
    return descriptions.workerSettings(arguments, named)


def told(name: str) -> list[list[float]]:
    """
    Find what the comments say of the seconds of each pod's grace.
    """
    comments = re.findall(
        r"((?: +#.*\n)+) +terminationGracePeriodSeconds:", manifests.text(name)
    )
    return [
        [float(each) for each in re.findall(r"(\d+) s\b", text)] for text in comments
    ]
