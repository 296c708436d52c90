"""A message comes in, tokens go out; what people say of the reply is recorded."""
