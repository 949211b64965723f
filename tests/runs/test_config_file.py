"""lora_scratch/runs/config_file.py: flags from a file, below those that are typed; what is no flag is an error."""

import json
import os

import pytest
import yaml

from lora_scratch.errors import ConfigError
from lora_scratch.runs import TRAIN_OPTIONS, argument_parser, flag_parser, parse, with_config

JOB = """
model: mine
dataset: rows
rank: 4
learning_rate: 1e-2
targets: [q_lin, v_lin]
rank_pattern: {q_lin: 2}
linear_probe: true
schedule: cosine
"""
BOMB = "a: &a [x]\n" + "\n".join(f"b{i}: &b{i} [{', '.join(['*a' if i == 0 else f'*b{i - 1}'] * 9)}]" for i in range(12))


@pytest.fixture
def write(tmp_path):
    """Write a file of this name; return the words that name it."""

    def write(text, name="job.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return ["--config", str(tmp_path / name)]

    return write


def values(arguments):
    """What the command train makes of them."""
    model, data, adapter, training, run = parse(TRAIN_OPTIONS, "", arguments=arguments)
    return {
        "model": model.model,
        "dataset": data.dataset,
        "rank": adapter.rank,
        "targets": adapter.targets,
        "rank_pattern": adapter.rank_pattern,
        "learning_rate": training.learning_rate,
        "schedule": training.schedule,
        "linear_probe": run.linear_probe,
    }


def test_yaml_and_json_give_what_typed_flags_give(write):
    """Numbers, words, lists, mappings and switches; `1e-2`, which YAML reads as a word, is a number all the same."""
    typed = ["--model", "mine", "--dataset", "rows", "--rank", "4", "--learning_rate", "1e-2", "--targets", "q_lin", "v_lin"]
    expected = values([*typed, "--rank_pattern", '{"q_lin": 2}', "--linear_probe", "true", "--schedule", "cosine"])
    assert values(write(JOB)) == expected
    text = json.dumps(yaml.safe_load(JOB), indent="\t")
    assert values(write(text, "job.json")) == expected


def test_typed_flags_count_more_than_the_file_and_the_file_more_than_the_preset(write):
    """Wherever --config is."""
    config = write("preset: encoder\nmodel: mine\ndataset: rows\nrank: 2\nlearning_rate: 0.5\n")
    for line in ([*config, "--rank", "3"], ["--rank", "3", *config], ["--rank=3", "=".join(config)]):
        found = values(line)
        assert (found["rank"], found["learning_rate"], found["schedule"]) == (3, 0.5, "cosine")


def test_the_file_is_recorded_among_the_flags(write):
    """config.json holds every flag as it was resolved, and where it came from."""
    config = write(JOB)
    assert parse(TRAIN_OPTIONS, "", arguments=config)[-1].config == config[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnk: 4", "there is no flag --rnk; nearest: --rank"),
        ("batch size: 4", "there is no flag --batch size; nearest: --batch_size"),
        ("config: other.yaml", "--config is there; expected the other flags"),
        ("help: true", "--help is there; expected the other flags"),
        ("rank: 010", "YAML reads 010 as another number; write the number that is meant, or the text in quotes"),
        ("seed: 1:30", "YAML reads 1:30 as another number"),
        ("text_column: 1_0", "YAML reads 1_0 as another number"),
        ("learning_rate: 1_0.5", "YAML reads 1_0.5 as another number"),
        ("4: 4", "the key 4 is no text"),
        ("rank:", "--rank has no value; give it one, or leave the key out"),
        ("rank: 4\nrank: 8", "rank is there twice"),
        ("- rank", "found list; expected a mapping of flags to values"),
        ("", "found NoneType"),
        ("rank: [4", "can't be read"),
        ("rank: \udcff", "can't be read"),
        ("targets: &a [*a]", r"has an alias \(\*name\); write the value out"),
        ("rank_pattern: &a {q_lin: *a}", "has an alias"),
        (BOMB, "has an alias"),
        ("rank_pattern: {2020-01-01: 1}", "the key 2020-01-01 is no text"),
        ("rank_pattern: {q: 1, q: 2}", "q is there twice"),
        ("output_dir: 2020-01-01", r"output_dir is a date, expected a text \(in quotes\)"),
        ("targets: [!!binary aGk=]", "targets is a bytes"),
        ("targets: !!set {a, b}", "targets is a set"),
        ("a: !!python/object/apply:os.system [id]", "can't be read"),
        ("targets: " + "[" * 20_000, "is nested deeper than 16"),
        ("rank: " + "9" * 5000, "can't be read"),
        ("a" * 70_000, "is longer than 65,536 characters"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_flag_is_one_line_that_names_the_file(write, tmp_path, text, message):
    """Typos are never passed over in silence."""
    config = write("")
    (tmp_path / "job.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=rf"^--config .*job.yaml: {message}") as error:
        values(config)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    """Before anything else."""
    with pytest.raises(ConfigError, match=r"gone.yaml: can't be read"):
        values(["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(ConfigError, match=r"job.toml: found .toml; expected .yaml, .yml, .json"):
        values(["--config", str(tmp_path / "job.toml")])


def test_a_pipe_is_refused_and_not_waited_on(tmp_path):
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match=r"job.yaml: is no regular file"):
        values(["--config", str(tmp_path / "job.yaml")])


def test_a_number_in_quotes_is_the_text(write):
    """As it would be typed."""
    assert values(write(JOB + "seed: '010'\nlimit_train: 0x10\n")) == values(write(JOB))


@pytest.mark.parametrize(("text", "message"), [("rank: four", "--rank: invalid int value"), ("rank: [4, 8]", "unknown: 8")])
def test_a_value_is_checked_as_a_typed_one(write, capsys, text, message):
    """Exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        values(write(text))
    assert message in capsys.readouterr().err


def test_a_list_of_lists_is_the_flag_several_times(write):
    """As compare takes --flags_of; a key may be a flag of the command that the others go to."""
    parser = argument_parser("")
    parser.add_argument("--config")
    parser.add_argument("--flags_of", nargs=2, action="append")
    config = write("flags_of: [[full, --epochs 1], [lora, --rank 2]]\nepochs: 3\n")
    options, others = parser.parse_known_args(with_config([*config, "--seeds"], parser, flag_parser(TRAIN_OPTIONS, "")))
    assert options.flags_of == [["full", "--epochs 1"], ["lora", "--rank 2"]]
    assert others == ["--epochs=3", "--seeds"]


def test_a_command_without_the_flag_reads_no_file(write):
    """--config is then a word like any other."""
    assert with_config(write("rank: 4"), argument_parser("")) == write("rank: 4")
