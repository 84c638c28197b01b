"""Checks the files of deploy/ that are not run elsewhere: systemd units, the compose file, Kubernetes manifests.

    HOLDFAST_BIN=target/release/holdfast HOLDFAST_NATS_SERVER=nats-server python tests/python/deploy_files.py

Every command line in them is given to the real programs, so an option that was renamed is found. It needs PyYAML and
kubernetes-validate, and systemd-analyze; `kubectl` renders the manifests as they are applied.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("HOLDFAST_BIN", "target/release/holdfast"))
NATS = shutil.which(os.environ.get("HOLDFAST_NATS_SERVER", "nats-server"))
# Ten times the exposure that `systemd-analyze security` prints; 10.0 is a unit without any protection.
MOST_EXPOSURE = 15
# What `holdfast credentials` writes, and nats.conf reads.
PASSWORDS = [f"HOLDFAST_{role}_PASSWORD" for role in ("COORDINATOR", "WORKER", "OPS", "CLIENT", "SYS", "ROUTE")]


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **more)
    return done.returncode, done.stdout


def in_deploy(name):
    return os.path.join(ROOT, "deploy", name)


def accepts(command, where):
    """Fails unless the program of `command` takes its options."""
    if command[0] == "holdfast":
        status, text = run(BIN, *command[1:], "--help", cwd=ROOT)
    else:
        assert command[0] == "nats-server", command
        routes = "[nats-route://route:p@n1:6222, nats-route://route:p@n2:6222]"
        variables = {name: "p" for name in PASSWORDS} | {"HOLDFAST_SERVER_NAME": "n1", "HOLDFAST_ROUTES": routes}
        variables = {**os.environ, **variables}
        status, text = run(NATS, *command[1:], "-t", cwd=ROOT, env=variables)
        # For an unknown flag it prints its usage, and ends with status 0.
        status = status or "is valid" not in text
    assert status == 0, f"{where}: {shlex.join(command)}\n{text}"


def filled(text, values):
    """`text` with `$NAME`, `${NAME...}` and `$(NAME)` replaced."""
    pattern = r"\$\{(\w+)[^}]*\}|\$\((\w+)\)|\$(\w+)"
    return re.sub(pattern, lambda found: values[found[1] or found[2] or found[3]], text)


def check_units():
    units = sorted(glob.glob(in_deploy("systemd/*.service")))
    assert len(units) == 3, units
    with tempfile.TemporaryDirectory() as folder:
        for unit in units:
            text = open(unit).read().replace("/usr/local/bin/holdfast", BIN).replace("/usr/local/bin/nats-server", NATS)
            with open(os.path.join(folder, os.path.basename(unit)), "w") as copy:
                copy.write(text)
        status, text = run("systemd-analyze", "verify", "--man=no", *glob.glob(f"{folder}/*"))
        assert (status, text) == (0, ""), text
    for unit in units:
        status, text = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", unit)
        assert status == 0, f"{unit} is more exposed than {MOST_EXPOSURE / 10}:\n{text}"
        lines = open(unit).read().splitlines()
        values = {"STATE_DIRECTORY": "/var/lib/x"}
        for line in lines:
            if line.startswith("Environment="):
                name, value = line.removeprefix("Environment=").strip('"').split("=", 1)
                values[name] = value
        (start,) = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
        start = start.replace("%d", "/run/credentials/x").replace("%i", "w1").replace("/etc/holdfast/", "")
        program, *arguments = shlex.split(filled(start, values))
        accepts([os.path.basename(program), *arguments], os.path.basename(unit))
    print(f"systemd: {len(units)} units")


def check_compose():
    services = yaml.safe_load(open(in_deploy("compose.yaml")))["services"]
    values = {name: "p" for name in PASSWORDS}
    for name, service in services.items():
        words = [filled(word, values) for word in service.get("entrypoint", ["holdfast"]) + service.get("command", [])]
        accepts([word.replace("/etc/nats/", "") for word in words], f"compose: {name}")
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
    print(f"compose: {len(services)} services")


def check_kubernetes():
    folder = in_deploy("kubernetes")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as rendered:
        if shutil.which("kubectl"):
            status, text = run("kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone", folder)
            assert status == 0, text
        else:
            print("kubectl is not here, so the manifests are checked as they are, without kustomization.yaml")
            files = [file for file in sorted(glob.glob(f"{folder}/*.yaml")) if "kustomization" not in file]
            text = "\n---\n".join(open(file).read() for file in files)
        rendered.write(text)
        rendered.flush()
        status, said = run(sys.executable, "-m", "kubernetes_validate", "--strict", rendered.name)
        assert status == 0, said
    resources = list(yaml.safe_load_all(text))
    workloads = [resource for resource in resources if resource["kind"] in ("Deployment", "StatefulSet")]
    assert len(workloads) == 3, [resource["kind"] for resource in resources]
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        check_pod(workload["metadata"]["name"], pod)
    # The files include each other by their place.
    nats = next(workload for workload in workloads if workload["kind"] == "StatefulSet")
    (conf,) = [volume["configMap"] for volume in nats["spec"]["template"]["spec"]["volumes"] if "configMap" in volume]
    assert {item["path"] for item in conf["items"]} == with_includes("deploy/nats/cluster.conf"), conf
    if shutil.which("kubectl"):
        (files,) = [resource["data"] for resource in resources if resource["kind"] == "ConfigMap"]
        assert {item["key"] for item in conf["items"]} == set(files), files.keys()
        for item in conf["items"]:
            assert files[item["key"]] == open(os.path.join(ROOT, item["path"])).read(), item
    print(f"kubernetes: {len(resources)} resources")


def with_includes(name):
    """A file of nats-server's settings and all that it includes, as places below the root."""
    found = {name}
    for include in re.findall(r'^include "(.+)"', open(os.path.join(ROOT, name)).read(), re.MULTILINE):
        found |= with_includes(os.path.normpath(os.path.join(os.path.dirname(name), include)))
    return found


def check_pod(name, pod):
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, name
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }, name
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        port = container[probe]["httpGet"]["port"]
        assert port in [port["name"] for port in container["ports"]], (name, probe)
    values = {"POD_NAME": "pod-1", **{password: "p" for password in PASSWORDS}}
    for variable in container["env"]:
        values.setdefault(variable["name"], "x")
        secret = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        assert secret is None or secret in PASSWORDS, (name, variable)
    words = container.get("command", ["holdfast"]) + container["args"]
    words = [filled(word, values).replace("/etc/nats/", "") for word in words]
    accepts(words, f"kubernetes: {name}")


def check_credentials():
    """`holdfast credentials` makes each password that the files name, once, for its owner only."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "data/credentials.env")
        home = {**os.environ, "HOME": folder, "XDG_STATE_HOME": folder}
        made = []
        for url in ("nats://127.0.0.1:4222", "nats://n1:4222,nats://n2:4222"):
            status, text = run(BIN, "credentials", "--data", "data", "--nats", url, cwd=folder, env=home)
            assert status == 0 and file.removeprefix(f"{folder}/") in text, text
            made.append(dict(line.strip().split("=", 1) for line in open(file)))
            assert not [password for password in made[-1].values() if password in text], "a password was printed"
            context = open(os.path.join(folder, "data/config/nats/context/worker.json")).read()
            assert url in context and made[-1]["HOLDFAST_WORKER_PASSWORD"] in context, context
        assert made[0] == made[1], "passwords changed"
        assert sorted(made[0]) == sorted(PASSWORDS) and len(set(made[0].values())) == len(PASSWORDS), made[0].keys()
        assert os.stat(file).st_mode & 0o777 == 0o600
    print("credentials: made once, mode 0600")


if __name__ == "__main__":
    check_units()
    check_compose()
    check_kubernetes()
    check_credentials()
