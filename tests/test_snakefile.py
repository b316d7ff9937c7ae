"""What the chain would start and ask of a cluster, by a dry run."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from pslib.lab import runs


def jobs_of(profile, folder):
    """{(rule, method, size): (resources, command)} of a profile's chain, as Snakemake shows it; the
    last of the seeds.
    """
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "-n",
            "-p",
            "--snakefile",
            runs.ROOT / "notebooks" / "Snakefile",
            "--cores",
            "64",
            "--directory",
            folder,
            "--config",
            f"profile={profile}",
            "--rerun-triggers",
            "mtime",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for text in re.split(r"\n\n", done.stdout + done.stderr):
        rule, command = (
            re.search(r"^rule (\w+):", text, re.M),
            re.search(r"^Shell command: (.*)", text, re.M | re.S),
        )
        if rule and command and rule[1] != "all":
            given = dict(
                re.findall(r"(\w+)=([^,\s]+)", "".join(re.findall(r"wildcards: (.*)", text)))
            )
            asked = dict(re.findall(r"(\w+)=([^,]+)", re.search(r"resources: (.*)", text)[1]))
            asked["threads"] = "".join(re.findall(r"threads: (\d+)", text)) or "1"
            found[rule[1], given.get("method"), given.get("size")] = asked, command[1]
    return found


def test_the_chain_of_a_file_is_that_of_the_file_and_its_results_are_under_its_name(tmp_path):
    folder = tmp_path / "it's {here}"
    folder.mkdir()
    path = folder / "mine.yaml"
    path.write_text((runs.PROFILES / "smoke.yaml").read_text().replace("seeds: [1]", "seeds: [4]"))
    jobs = jobs_of(path, tmp_path)
    assert {rule for rule, _, _ in jobs} == {"base_model", "train", "evaluate", "table1", "figures"}
    for _, command in jobs.values():
        words = shlex.split(command)
        assert str(path) in words, command
        assert words[-2].startswith("mine/logs/")  # its log, from results/local
    assert "seed 4" in jobs["train", "grpo", "0.2m"][1]


@pytest.mark.parametrize("name", ["understood_400", "smoke", "smollm2_taught"])
def test_the_seeds_of_each_size_are_those_of_the_profile(name, tmp_path):
    jobs, profile = jobs_of(name, tmp_path), runs.load_profile(name)
    for size in profile.sizes:
        _, command = jobs["evaluate", profile.methods[0], size]
        assert f"-p seeds {'_'.join(map(str, profile.seeds_of(size)))} " in command


def test_sizes_and_variants_may_have_every_name_that_a_profile_may_give_them(tmp_path):
    path = tmp_path / "named.yaml"
    text = (runs.PROFILES / "smollm2.yaml").read_text()
    text = re.sub(r"sizes: \[.*?\]", "sizes: [135m-instruct_2]", text)
    path.write_text(text + "\nvariants: {Eta_1.5: {of: policy_split, eta: 1.5}}\n")
    jobs = jobs_of(path, tmp_path)
    assert ("train", "Eta_1.5", "135m-instruct_2") in jobs
    path.write_text(text + "\nvariants: {eta-1: {of: policy_split, eta: 1.0}}\n")
    with pytest.raises(ValueError, match="a variant's name may hold letters, digits, '_'"):
        runs.load_profile(str(path))


@pytest.mark.parametrize(
    "methods, again", [("original, grpo, policy_split", set()), ("grpo", {"table1", "figures"})]
)
def test_tables_are_made_again_where_a_method_was_taken_out_of_the_profile(
    tmp_path, methods, again
):
    path, text = tmp_path / "mine.yaml", (runs.PROFILES / "smoke.yaml").read_text()
    path.write_text(text.replace("[original, grpo, policy_split]", f"[{methods}]"))
    ended = ["05_base_model-0.2m", "06_train-grpo-0.2m-s1", "06_train-policy_split-0.2m-s1"]
    ended += [f"07_evaluate-{m}-0.2m-s1" for m in ("original", "grpo", "policy_split")]
    steps = [f"steps/{step}" for step in ended]
    made = ["profile.yaml", *steps, "tables/table1_general.csv", "steps/figures"]
    for second, name in enumerate(made, start=1):
        output = tmp_path / "mine" / name
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
        os.utime(output, (second, second))
    assert {rule for rule, _, _ in jobs_of(path, tmp_path)} == again


def test_nano_profiles_run_notebooks_and_ask_for_little(tmp_path):
    jobs = jobs_of("smoke", tmp_path)
    assert {rule for rule, _, _ in jobs} == {"base_model", "train", "evaluate", "table1", "figures"}
    for asked, command in jobs.values():
        assert (asked["mem_mb"], asked["runtime"], asked["threads"]) == (
            "2000",
            "240",
            "1",
        ) and int(asked.get("gpu", 0)) == 0
        assert ("-m pslib notebook" in command or "-m pslib figures smoke" in command) and not {
            "mpi",
            "nodes",
            "tasks",
        } & set(asked)


def test_the_paper_profile_starts_accelerate_and_asks_for_its_gpus(tmp_path):
    jobs, profile = jobs_of("paper", tmp_path), runs.load_profile("paper")
    for size in profile.sizes:
        asked, command = jobs["train", "policy_split", size]
        started = yaml.safe_load(
            (runs.ROOT / "notebooks" / "accelerate" / f"{profile.launch[size]}.yaml").read_text()
        )
        assert (
            int(asked["gpu"]) == started["num_processes"]
            and asked["threads"] == "64"
            and asked["runtime"] == "2880"
        )
        assert f"-m pslib train paper policy_split {size} 1" in command
        assert f"accelerate/{profile.launch[size]}.yaml" in command
        several = started["num_machines"] > 1
        assert (
            ("srun --nodes 2 --ntasks 2" in command)
            == several
            == (asked.get("nodes") == "2")
            == (asked.get("mpi") == "srun")
        )
    assert jobs["evaluate", "policy_split", "1.7B"][0]["gpu"] == "1"
    assert jobs["table1", None, None][0]["mem_mb"] == "2000"


@pytest.mark.parametrize(
    "path",
    sorted((runs.ROOT / "notebooks" / "accelerate").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_every_accelerate_configuration_is_read_and_is_what_its_name_says(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config, (machines, processes) = (
        load_config_from_file(str(path)),
        {"1": (1, 1), "8": (1, 8), "2x8": (2, 16)}[path.stem.split("-")[0]],
    )
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert ("sharded" in path.stem) == (config.distributed_type.value == "FSDP")


def test_a_launch_that_there_is_not_is_refused(tmp_path, monkeypatch):
    given = yaml.safe_load((runs.PROFILES / "smoke.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**given, "launch": {"0.2m": "3x8"}}))
    monkeypatch.setattr(runs, "PROFILES", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"launch must be like \{0.2m: 8\}, with one of its sizes and one of .*2x8.*got "
        r"'0.2m': '3x8'",
    ):
        runs.load_profile("wrong")


def test_no_step_hands_its_results_to_snakemake_which_removes_those_of_a_step_that_fails(tmp_path):
    rules = (runs.ROOT / "notebooks" / "Snakefile").read_text().split("\nrule ")[1:]
    for rule in rules:
        outputs = re.search(r"    output:\n((?:        .*\n)+)", rule)
        if rule.split(":")[0] in ("base_model", "train", "evaluate", "figures"):
            assert outputs and all(
                line.strip().startswith("touch(") for line in outputs[1].splitlines()
            )
