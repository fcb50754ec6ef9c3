"""docs/cluster.md and examples/: what they start exists, fits together, and finds its processes."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest
import yaml
from test_train import Run, arguments, ends, free_port, start
from test_train import root as root

from jaxseg import cli
from jaxseg.config import Config

HERE = pathlib.Path(__file__).parents[1]
PAGE = HERE / "docs" / "cluster.md"
SLURM, KUBERNETES = HERE / "examples" / "slurm.sbatch", HERE / "examples" / "kubernetes.yaml"
CLUSTER_PORTS = 61440  # from here on JAX chooses one, by the number of the job


def manifest():
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return service, job, pod, container


def commands():
    """The words after `python -m jaxseg.train` of each command, and where it is."""
    for path in (PAGE, SLURM, KUBERNETES):
        text = path.read_text().replace("\\\n", " ")
        for found in re.findall(r"python3? -m jaxseg\.train +(--.*)", text):
            yield path.name, [word.strip("\"'`") for word in found.split() if word.startswith("--")]


def test_flags_exist(tmp_path):
    with Run(tmp_path, "--help") as run:
        code, text, _ = run.wait()
    assert code == 0
    known = set(re.findall(r"^  --([\w.]+)", text, re.M))
    assert {f"config.{name}" for name, *_ in cli.fields(Config)} < known
    found = list(commands())
    assert {place for place, _ in found} == {PAGE.name, SLURM.name, KUBERNETES.name}
    assert len(found) > 6
    for place, words in found:
        names = {word[2:].partition("=")[0] for word in words}
        assert names <= known, place
        assert ("distributed" in names) != ({"coordinator", "num_processes", "process_id"} <= names)
        assert "workdir" in names
    for name in re.findall(r"`--(\w+)`", PAGE.read_text().split("\n## ")[0]):
        assert name in known


def test_links_of_the_page_lead_somewhere():
    text = PAGE.read_text()
    titles = {x.lower().replace(" ", "-") for x in re.findall(r"^## (.*)$", text, re.M)}
    links = re.findall(r"\]\((.*?)\)", text)
    assert {link[1:] for link in links if link.startswith("#")} == titles
    assert all((PAGE.parent / link).is_file() for link in links if not link.startswith("#"))


def test_manifest_fits_together():
    """Names that refer to each other, and numbers that have to be alike."""
    service, job, pod, container = manifest()
    name, spec = job["metadata"]["name"], job["spec"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    *_, script = container["command"]
    assert f"--coordinator={name}-0.{pod['subdomain']}:" in script
    assert f"--num_processes={spec['completions']} " in script
    assert spec["parallelism"] == spec["completions"]
    fail, _ = spec["podFailurePolicy"]["rules"]
    assert fail["onExitCodes"]["values"] == [cli.USAGE_ERROR, cli.NO_WAY_ON]
    assert fail["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    mounts = [mount["name"] for mount in container["volumeMounts"]]
    assert mounts == [volume["name"] for volume in pod["volumes"]]
    (changed,) = yaml.safe_load_all(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)[1])
    assert changed["spec"].keys() <= spec.keys()
    assert changed["spec"]["template"]["spec"]["containers"][0]["name"] == container["name"]


# In place of python: takes a while, unless it gets SIGTERM, and leaves with CODE.
TRAINING = """#!/bin/sh
trap 'echo stopped; exit $CODE' TERM
[ -n "$DONE" ] && mkdir -p "$DONE" && touch "$DONE/done" && exit $CODE
echo begun
for _ in $(seq 600); do sleep 0.1; done
"""


def stand_in(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def outcome(command, folder, stop, **environment):
    """The exit code and output of a script whose commands are those of a folder."""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if stop:
            assert run.stdout.readline() == "begun\n"
            time.sleep(0.2)
            stop(run)
        text, _ = run.communicate(timeout=30)
        return run.returncode, text
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("done", "code", "wanted"), [(True, 0, 0), (False, 0, 75), (True, 2, 2), (False, 1, 1)]
)
def test_pods_succeed_when_all_is_done(done, code, wanted, tmp_path):
    """SIGTERM reaches the training, which may leave with 0 though it is not done."""
    *_, container = manifest()
    stand_in(tmp_path, "python", TRAINING)
    values = {x["name"]: x["value"] for x in container["env"]} | {"WORKDIR": str(tmp_path / "run")}
    values |= {"JOB_COMPLETION_INDEX": "0", "CODE": str(code)}
    values["DONE"] = values["WORKDIR"] if done else ""
    stop = None if done else (lambda run: run.send_signal(signal.SIGTERM))
    found, text = outcome(container["command"], tmp_path, stop, **values)
    assert (found, "stopped" in text) == (wanted, not done)


@pytest.mark.parametrize(
    ("done", "code", "queued"), [(True, 0, False), (False, 0, True), (False, 1, False)]
)
def test_jobs_are_queued_until_all_is_done(done, code, queued, tmp_path):
    """Where SLURM, whose commands are stood in for, sends SIGTERM to the tasks alone."""
    stand_in(tmp_path, "srun", f"#!/bin/sh\nexec {tmp_path}/task\n")
    stand_in(tmp_path, "task", TRAINING.replace("echo begun", "echo begun; echo $$ > pid"))
    stand_in(tmp_path, "scontrol", '#!/bin/sh\necho "queued: $*"\n')
    assert (HERE / re.search(r"--config=(\S+)", SLURM.read_text())[1]).is_file()

    def stop(run):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)

    values = {"SLURM_JOB_ID": "7", "CODE": str(code), "DONE": "runs/slurm"}
    if not done:
        values["DONE"] = ""
    found, text = outcome(["bash", str(SLURM)], tmp_path, None if done else stop, **values)
    assert found == code
    assert ("queued: requeue 7" in text) == queued


def by_slurm(count):
    """What srun sets, of a job whose number gives a port that is free."""
    shared = {
        "SLURM_JOB_ID": str(free_port(CLUSTER_PORTS) - CLUSTER_PORTS),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(count),
    }
    for index in range(count):
        own = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
        yield ["--distributed"], shared | own


def by_open_mpi(count):
    """What mpirun of Open MPI 4 sets."""
    job = (free_port(CLUSTER_PORTS) - CLUSTER_PORTS) * 2**12
    shared = {
        "OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
    }
    for index in range(count):
        own = {"OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_LOCAL_RANK": str(index)}
        yield ["--distributed"], shared | own


@pytest.mark.long
@pytest.mark.parametrize("cluster", [by_slurm, by_open_mpi])
def test_processes_of_a_cluster_find_each_other(cluster, root, tmp_path):
    args = arguments(root, steps=3, eval_every=3, pictures=0)
    found = ends(start(cluster(2), *args, f"--workdir={tmp_path / 'run'}"))
    for _, errors, code in found:
        assert code == 0, errors
    assert "2 device(s) (cpu) of 2 processes" in found[0][0]


def test_no_cluster_is_an_error(tmp_path):
    with Run(tmp_path, "--distributed", f"--workdir={tmp_path / 'run'}") as run:
        code, _, errors = run.wait()
    assert code == cli.USAGE_ERROR
    assert "give --coordinator, --num_processes and --process_id" in errors
    assert not (tmp_path / "run").exists()
