"""Files and names that mean harm: each is refused in one sentence, runs nothing and writes nothing
outside results/.
"""

import copy
import functools
import hashlib
import json
import pickle
import shutil
import struct
import warnings
from pathlib import Path

import nbformat
import papermill
import pytest
import torch

from pslib import modes, policy
from pslib.lab import chain, checkpoint, cli, publish, runs
from pslib.lab import place as where


class Payload:
    """What a pickle can do: unpickled, it leaves a file."""

    def __reduce__(self):
        return open, ("canary", "w")


EVIL = "open('canary', 'w')\n"
REACH = "{{ cycler.__init__.__globals__.os.open('canary', 65) }}"


def model_folder(place, model, tokenizer):
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def changed(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def pickled_weights(at, model):
    (at / "model.safetensors").unlink()
    torch.save({"x": Payload()}, at / "pytorch_model.bin")


def pickle_called_safetensors(at, model):
    (at / "model.safetensors").write_bytes(pickle.dumps(Payload()))


def zip_pickle_called_safetensors(at, model):
    torch.save({"x": Payload()}, at / "model.safetensors")


def truncated_safetensors(at, model):
    data = (at / "model.safetensors").read_bytes()
    (at / "model.safetensors").write_bytes(data[: len(data) // 2])


def safetensors_with_a_header_of_exabytes(at, model):
    (at / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def safetensors_whose_offsets_lie(at, model):
    header = json.dumps(
        {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    (at / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def index_of_pickled_shards(at, model):
    (at / "model.safetensors").unlink()
    torch.save({"x": Payload()}, at / "evil.bin")
    names = dict.fromkeys(model.state_dict(), "evil.bin")
    (at / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )


def index_of_shards_elsewhere(at, model):
    (at / "model.safetensors").unlink()
    torch.save({"x": Payload()}, at.parent / "evil.bin")
    names = dict.fromkeys(model.state_dict(), "../evil.bin")
    (at / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": names})
    )


def model_code(at, model):
    (at / "modeling_evil.py").write_text(EVIL)
    (at / "configuration_evil.py").write_text(EVIL)
    changed(
        at / "config.json",
        model_type="evil",
        architectures=["EvilModel"],
        auto_map={
            "AutoConfig": "configuration_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilModel",
        },
    )


def tokenizer_code(at, model):
    (at / "tokenization_evil.py").write_text(EVIL)
    (at / "tokenizer.json").unlink()
    changed(
        at / "tokenizer_config.json",
        tokenizer_class="EvilTokenizer",
        auto_map={
            "AutoTokenizer": ["tokenization_evil.EvilTokenizer", "tokenization_evil.EvilTokenizer"]
        },
    )


def attention_code(at, model):
    changed(at / "config.json", attn_implementation="evil-owner/evil-kernel")


def pickled_tokenizer(at, model):
    (at / "tokenizer.json").write_bytes(pickle.dumps(Payload()))


def config_that_is_a_list(at, model):
    (at / "config.json").write_text("[" * 500 + "]" * 500)


MODELS = [
    pickled_weights,
    pickle_called_safetensors,
    zip_pickle_called_safetensors,
    truncated_safetensors,
    safetensors_with_a_header_of_exabytes,
    safetensors_whose_offsets_lie,
    index_of_pickled_shards,
    index_of_shards_elsewhere,
    model_code,
    tokenizer_code,
    attention_code,
    pickled_tokenizer,
    config_that_is_a_list,
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with results/ in it; afterwards nothing else in it may have been made or
    changed by a refusal.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSLIB_RESULTS", str(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    (tmp_path / "precious.ipynb").write_text("precious")
    return tmp_path


def outside(place):
    """Every file outside results/ with its content, links not followed."""
    return {
        path: path.is_file() and not path.is_symlink() and path.read_bytes()
        for path in place.rglob("*")
        if path.relative_to(place).parts[0] != "results"
    }


def refused(place, attempt, *kinds):
    """Whether an attempt is refused with one of some kinds of error, in one line, and leaves no
    trace.
    """
    before = outside(place)
    with pytest.raises(kinds or ValueError) as error:
        attempt()
    said = str(error.value)
    assert said and "\n" not in said
    assert outside(place) == before
    return said


@pytest.mark.parametrize("spoil", MODELS, ids=lambda f: f.__name__)
def test_a_model_folder_with_code_or_damage_is_refused(spoil, place, model, tokenizer):
    at = model_folder(place / "model", model, tokenizer)
    spoil(at, model)
    said = refused(place, lambda: policy.load(at))
    assert "safetensors weights could be loaded from the folder" in said


@pytest.mark.parametrize(
    "template",
    [
        REACH,
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__.__builtins__.open('canary', 'w') }}",
        "{% set x = messages[0].__class__.__base__.__subclasses__() %}{{ x }}",
        "{{ lipsum.__globals__['os'].system('touch canary') }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__.__mro__[1].__init__}'.format(messages) }}",
        "{{ raise_exception('no') }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ open('canary', 'w') }}",
        "{{ x",
    ],
)
def test_a_chat_template_that_reaches_for_what_is_not_its_own_is_refused(
    template, place, tokenizer
):
    hostile = copy.deepcopy(tokenizer)
    hostile.chat_template = template
    said = refused(place, lambda: modes.render(hostile, modes.Mode("he", "Think."), "1+1"))
    assert "chat template cannot be used" in said


def command(capsys, *arguments):
    """Run a command that must fail with one line on standard error -> ValueError with that line."""
    capsys.readouterr()
    code = cli.main(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 1 and len(lines) == 1 and lines[0].startswith("pslib: "), lines
    raise ValueError(lines[0])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("compare", "../../evil"), "no profile is called"),
        (("reproduce", "smoke\n"), "no profile is called"),
        (("publish", "/evil"), "no profile is called"),
        (("notebook", "../evil"), "no notebook is called"),
        (("notebook", "/etc/passwd"), "no notebook is called"),
        (
            ("notebook", "06_train", "--out", "precious.txt"),
            "a file of its own that ends in .ipynb",
        ),
        (
            ("notebook", "06_train", "-p", "seed", "1;open('canary','w')"),
            "parameter seed must be int",
        ),
        (
            ("notebook", "06_train", "-p", "seed", "__import__('os').getpid()"),
            "parameter seed must be int",
        ),
        (("notebook", "06_train", "-p", "x=open('canary','w')#", "1"), "has no parameter"),
    ],
    ids=str,
)
def test_a_name_or_parameter_that_leads_elsewhere_is_refused(arguments, said, place, capsys):
    (place / "evil.yaml").write_text("!!python/object/apply:builtins.open ['canary', 'w']")
    (place / "evil.ipynb").write_text("{}")
    assert said in refused(place, lambda: command(capsys, *arguments))
    assert list((place / "results").iterdir()) == []


def test_an_executed_notebook_does_not_replace_the_one_it_came_from(place, monkeypatch, capsys):
    shutil.copytree(where.ROOT / "notebooks", place / "notebooks")
    monkeypatch.setattr(where, "ROOT", place)
    for out in (
        "notebooks/07_evaluate.ipynb",
        str(place / "notebooks/../notebooks/07_evaluate.ipynb"),
    ):
        assert "a file of its own" in refused(
            place, lambda: command(capsys, "notebook", "07_evaluate", "--out", out)
        )


def test_text_parameters_reach_the_notebook_as_text_and_do_not_choose_where_it_is_written(
    place, monkeypatch
):
    # Every way out of a Python string at once; and a name for the result into which papermill would
    # put that text. The notebook is written as it would be run, and not run.
    monkeypatch.setattr(
        papermill,
        "execute_notebook",
        functools.partial(papermill.execute_notebook, prepare_only=True),
    )
    code = (
        "smoke\"+str(open('canary','w'))+\"\\\"'''\"\"\"\n\\\n"
        "open('canary','w')#{0.__class__}/../../canary"
    )
    before, given = outside(place), {}
    assert (
        cli.main(
            [
                "notebook",
                "07_evaluate",
                "--out",
                "{profile}{method}.ipynb",
                "-p",
                "profile",
                code,
                "-p",
                "method",
                "../../x",
            ]
        )
        == 0
    )
    made, after = place / "{profile}{method}.ipynb", outside(place)
    assert after.keys() - before.keys() == {made} and all(
        after[path] == before[path] for path in before
    )
    injected = [
        cell
        for cell in nbformat.read(made, 4).cells
        if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    exec(injected[0].source, given)
    assert (given["profile"], given["method"]) == (code, "../../x")
    assert outside(place) == after and list((place / "results").iterdir()) == []


@pytest.mark.parametrize("size", ["../../../../evil", "/evil", "..", "a/b", "0.2m\n"])
def test_a_size_that_leads_elsewhere_is_refused(size, place):
    profile = runs.load_profile("smoke")
    for attempt in (
        lambda: chain.make_base(profile, size),
        lambda: chain.train_run(profile, "grpo", size, 1),
        lambda: chain.evaluate_runs(profile, "original", size, "1"),
        lambda: chain.evaluate_runs(profile, "grpo", "0.2m", "1,../2"),
    ):
        refused(place, attempt)


def test_a_mode_prompt_that_leads_elsewhere_is_refused(place):
    (place / "evil.yaml").write_text("x: y")
    assert "no mode prompt is called" in refused(place, lambda: modes.he_mode("../../evil"))


@pytest.mark.parametrize(
    "old, new",
    [
        ("model: nano", "model: !!python/object/apply:builtins.open ['canary', 'w']"),
        ("model: nano", "model: !!python/name:os.system"),
        ("seeds: [1]", "seeds: ['1;touch canary']"),
        ("seeds: [1]", "seeds: [[1]]"),
        ('sizes: ["0.2m"]', "sizes: ['../../evil']"),
        ('sizes: ["0.2m"]', "sizes: ['$(touch canary)']"),
        ("he_prompt: high_entropy_short", "he_prompt: ../../evil"),
        ("grpo, policy_split", "../../evil"),
    ],
)
def test_a_profile_with_code_or_paths_in_it_is_refused(old, new, place, monkeypatch):
    text = (runs.PROFILES / "smoke.yaml").read_text()
    assert old in text
    (place / "mine.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(runs, "PROFILES", place)
    refused(place, lambda: runs.load_profile("mine"))


def sealed(folder, data, **more):
    """A checkpoint with a JSON beside it that vouches for it."""
    folder.mkdir(parents=True)
    (folder / "step-000001.safetensors").write_bytes(data)
    (folder / "step-000001.json").write_text(
        json.dumps({"step": 1, "sha256": hashlib.sha256(data).hexdigest(), **more})
    )


def test_a_pickle_as_a_checkpoint_is_passed_over_though_its_hash_is_right(place):
    sealed(place / "results" / "checkpoints", pickle.dumps(Payload()))
    before = outside(place)
    with pytest.warns(UserWarning, match="step-000001 .* is damaged"):
        assert checkpoint.load_newest(place / "results" / "checkpoints") is None
    assert outside(place) == before


def test_a_checkpoint_that_names_a_file_elsewhere_is_passed_over(place):
    checkpoint.save(place / "elsewhere", 1, {"x": torch.ones(1)})
    meta = json.loads((place / "elsewhere" / "step-000001.json").read_text())
    folder = place / "results" / "checkpoints"
    sealed(
        folder,
        b"",
        path="../../elsewhere/step-000001.safetensors",
        file="../../elsewhere/step-000001.safetensors",
        **{"sha256": meta["sha256"]},
    )
    with pytest.warns(UserWarning, match="step-000001 .* is damaged"):
        assert checkpoint.load_newest(folder) is None


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("linked", ["local", "local/smoke/runs", "local/smoke/runs/grpo-0.2m-s1"])
def test_a_run_folder_that_is_a_link_out_of_results_is_refused(linked, place):
    (place / "elsewhere").mkdir()
    link(place / "results" / linked, place / "elsewhere")
    assert "leads out of" in refused(
        place, lambda: chain.train_run(runs.load_profile("smoke"), "grpo", "0.2m", 1)
    )


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "metrics.csv", ".model.tmp", "rollouts.parquet", "evaluation.csv", ".lock"],
)
def test_a_link_in_a_run_folder_that_leads_out_of_it_is_refused(name, place):
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "file").write_text("precious")
    link(
        place / "results/local/smoke/runs/grpo-0.2m-s1" / name,
        place / "elsewhere" / ("" if name in ("checkpoints", ".model.tmp") else "file"),
    )
    profile = runs.load_profile("smoke")
    for attempt in (
        lambda: chain.train_run(profile, "grpo", "0.2m", 1),
        lambda: chain.evaluate_run(profile, "grpo", "0.2m", 1),
    ):
        refused(place, attempt, ValueError, OSError)


@pytest.mark.parametrize("at", ["source", "target"])
def test_publishing_follows_no_link_out(at, place, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", place)
    (place / "secret").write_text("secret")
    run = "smoke/runs/grpo-0.2m-s1/params.yaml"
    source, target = place / "results/local" / run, place / "results" / run
    if at == "source":
        link(source, place / "secret")
    else:
        source.parent.mkdir(parents=True)
        source.write_text("mine")
        link(target, place / "secret")
    assert "leads out of" in refused(place, lambda: publish.publish(runs.load_profile("smoke")))
    assert at == "target" or not Path(target).exists()


def test_a_pickle_would_have_left_a_trace(place):
    # The canary sings: were one of the pickles above unpickled, the tests would see it.
    pickle.loads(pickle.dumps(Payload())).close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (place / "canary").rename(place / "canary2")
        exec(EVIL)
    assert {place / "canary", place / "canary2"} <= outside(place).keys()
