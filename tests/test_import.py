"""Contract 11: `import lora_scratch` has no effects and pulls in neither transformers nor datasets."""

import json
import subprocess
import sys

LOOK = """
import json, logging, os, random, sys, threading, warnings
import torch, numpy

def state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "python": repr(random.getstate()),
        "numpy": repr(numpy.random.get_state()),
        "handlers": [repr(h) for h in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "threads": [torch.get_num_threads(), threading.active_count()],
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "folder": sorted(os.listdir()),
        "cuda": torch.cuda.is_initialized(),
    }

before = state()
import lora_scratch
after = state()
loaded = [name for name in ("transformers", "datasets", "peft", "accelerate", "sklearn", "scipy") if name in sys.modules]
print(json.dumps({"changed": [key for key in before if before[key] != after[key]], "loaded": loaded}))
"""


def test_import_has_no_effects(tmp_path):
    """No seed, no logging, no device, no thread, no variable, no file, no word on the terminal, no heavy library."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lora_scratch", "-c", LOOK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"changed": [], "loaded": []}


def test_public_names_are_reexported_one_by_one():
    """What the package offers is what its __init__ names, and every name is documented."""
    import lora_scratch

    names = [name for name, value in vars(lora_scratch).items() if not name.startswith("_") and hasattr(value, "__module__")]
    assert {"LoRALinear", "LoRAConfig", "inject", "disabled", "save_adapter", "load_adapter", "merge_all"} <= set(names)
    for name in names:
        assert getattr(lora_scratch, name).__doc__, name
        assert getattr(lora_scratch, name).__module__.startswith("lora_scratch."), name


def test_a_command_answers_before_the_heavy_libraries_are_loaded():
    """What every script imports: the parts of transformers that models are made of, SciPy and scikit-learn wait for use."""
    heavy = ("transformers.modeling_utils", "scipy.stats", "sklearn", "datasets", "matplotlib", "peft")
    modules = "lora_scratch.commands.predict, lora_scratch.runs, lora_scratch.training"
    look = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
