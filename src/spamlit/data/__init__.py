"""Messages: parsed (`sms`), divided (`splits`), encoded (`tokenizer`), ordered (`sampler`), batched (`datamodule`)."""
