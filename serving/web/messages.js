/** Texts of the page: messages for error codes, and the reasons that may go with a thumb. */

const ERRORS = {
  offline: "There is no connection right now. Your message is kept; try again when the page says it is back.",
  lost: "The connection was lost while the reply was coming.",
  no_engine: "The model is not ready yet. Give it a few seconds and try again.",
  rate_limit_exceeded: "Many messages at once. Wait a moment and try again.",
  context_length_exceeded: "This is too long for the model. Try something shorter.",
  body_too_large: "This is too long. Try something shorter.",
  completion_not_found: "This reply is no longer kept, so it cannot be voted on.",
};

/** Returns the message for an error, in a sentence for the user. */
export function errorMessage(error) {
  return ERRORS[error.code] ?? `Something went wrong: ${error.message || "the service gave no reason."}`;
}

/** [slug, label] by thumb. */
export const REASONS = {
  up: [
    ["correct", "Correct"],
    ["concise", "Concise"],
    ["detailed", "Detailed"],
    ["friendly", "Friendly"],
    ["clear", "Clear"],
    ["fun", "Fun"],
  ],
  down: [
    ["wrong", "Wrong"],
    ["too-long", "Too long"],
    ["too-short", "Too short"],
    ["cold", "Cold"],
    ["gushing", "Gushing"],
    ["unclear", "Unclear"],
    ["off-topic", "Off topic"],
  ],
};
