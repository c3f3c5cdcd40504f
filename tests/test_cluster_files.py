"""The files beside the page on clusters: they say what their readers understand, and a job of one node really runs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import qexplore as qx

FILES = Path(__file__).resolve().parents[1] / "docs" / "clusters"
SRUN = '#!/bin/bash\nwhile [[ ${1:-} == -* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\nif [[ $1 == show ]]; then echo "$3"; else echo "$@" >> scontrol.log; fi\n'
EVALUATIONS = 300

FIELDS = {
    "RayJob": {
        *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "jobId"),
        *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "managedBy", "metadata", "submissionMode"),
        *("preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "suspend"),
        *("submitterConfig", "submitterPodTemplate", "ttlSecondsAfterFinished"),
    },
    "cluster": {
        *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
        *("headServiceAnnotations", "historyServerOptions", "managedBy", "networkPolicy", "rayVersion", "suspend"),
        *("tlsOptions", "upgradeStrategy", "workerGroupSpecs"),
    },
    "head": {
        *("enableIngress", "headService", "ingressOptions", "labels", "rayStartParams", "resources", "serviceType"),
        "template",
    },
    "workers": {
        *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "priority"),
        *("rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template"),
    },
}
"""What KubeRay 1.7's schema of ray.io/v1 RayJob has at each level."""


@pytest.fixture
def job() -> Any:
    found = list(yaml.safe_load_all((FILES / "rayjob.yaml").read_text()))
    assert [one["kind"] for one in found] == ["RayJob", "PersistentVolumeClaim"]
    return found


def test_ray_job_has_fields_of_its_schema_and_those_that_it_must_have(job: Any) -> None:
    spec = job[0]["spec"]
    cluster = spec["rayClusterSpec"]
    levels = {"RayJob": spec, "cluster": cluster, "head": cluster["headGroupSpec"]}
    assert {name: set(level) - FIELDS[name] for name, level in levels.items() if set(level) - FIELDS[name]} == {}
    for workers in cluster["workerGroupSpecs"]:
        assert set(workers) <= FIELDS["workers"]
        assert {"groupName", "minReplicas", "maxReplicas", "template"} <= set(workers)
        assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())


def test_ray_job_runs_the_program_where_its_study_outlives_the_head(job: Any) -> None:
    cluster, program = job[0]["spec"]["rayClusterSpec"], search_module()
    head = cluster["headGroupSpec"]["template"]["spec"]
    words = job[0]["spec"]["entrypoint"].split()
    assert words[1].endswith("/search.py") and {one for one in words if one.startswith("--")} <= options_of(program)
    folder = words[words.index("--folder") + 1]
    mounted = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in head["volumes"]}
    assert claims[mounted[folder]] == job[1]["metadata"]["name"]
    assert int(words[words.index("--workers") + 1]) == sum(one["replicas"] for one in cluster["workerGroupSpecs"])


def test_images_of_head_and_workers_are_one_with_the_version_of_ray(job: Any) -> None:
    cluster = job[0]["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
    [image] = {container["image"] for container in containers}
    assert image.endswith(f":{cluster['rayVersion']}")


def test_script_is_bash_and_hands_the_program_arguments_that_it_takes() -> None:
    script = FILES / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    [line] = [line for line in script.read_text().splitlines() if line.startswith("python ")]
    assert {word for word in line.split() if word.startswith("--")} <= options_of(search_module())


def search_module() -> Any:
    spec = importlib.util.spec_from_file_location("search_of_clusters", FILES / "search.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(program: Any) -> set[str]:
    """What the program's command line knows."""
    return set(re.findall(r'"(--\w+)"', Path(program.__file__).read_text()))


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begins the job of one node: where SLURM is not, its commands are pretended."""
    pytest.importorskip("ray")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    number = os.getpid()
    node = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    node |= {"SLURM_JOB_NODELIST": socket.gethostname(), "SLURM_SUBMIT_DIR": str(FILES)}
    node |= {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", str(FILES / "slurm.sh"), "--evaluations", str(EVALUATIONS), "--folder", "runs"]
    jobs = []

    def begin() -> subprocess.Popen[bytes]:
        jobs.append(subprocess.Popen(command, cwd=tmp_path, env=os.environ | node, start_new_session=True))
        return jobs[-1]

    yield begin
    for one in jobs:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)


def num_measured(study: Path) -> int:
    """Evaluations that are written down."""
    try:
        with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM evaluations").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_job_that_is_told_to_stop_is_queued_again_and_ends_with_the_front_of_one_process(
    submitted: Any, tmp_path: Path
) -> None:
    first, runs = submitted(), tmp_path / "runs"
    while num_measured(runs / "study.db") < 40:
        assert first.poll() is None, "ended before it was told to"
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)  # as --signal=B:TERM does, to the script alone
    assert first.wait(timeout=300) == 75
    assert (tmp_path / "scontrol.log").read_text().split() == ["requeue", str(os.getpid())]
    assert not (runs / "front.json").exists()

    assert submitted().wait(timeout=300) == 0
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()

    torch.set_num_threads(1)
    alone = qx.explore(
        search_module().problem(runs / "network.pt", "cpu"), max_evaluations=EVALUATIONS, seed=1, progress=False
    )
    found = qx.Front.load(runs / "front.json")
    np.testing.assert_array_equal(found.num_bits, alone.front.num_bits)
    np.testing.assert_array_equal(found.accuracy, alone.front.accuracy)
