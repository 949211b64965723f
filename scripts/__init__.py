"""The commands. In a wheel this folder is `lora_scratch.commands`."""
