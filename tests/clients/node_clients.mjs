// One function per client and feature; `node node_clients.mjs NAME` runs one.
// The service is at $HEARKEN_URL, with the key $HEARKEN_KEY.
import assert from "node:assert";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const baseURL = `${process.env.HEARKEN_URL}/v1`;
const apiKey = process.env.HEARKEN_KEY;
const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 300_000 });
const provider = createOpenAI({ baseURL, apiKey });
const messages = [{ role: "user", content: "Name a city and whether it is large." }];
const City = z.object({ large: z.boolean() });

const clients = {
  async openai_streamed() {
    const stream = openai.chat.completions.stream({ model: "default", messages, max_tokens: 8 });
    assert((await stream.finalContent()).length > 0);
  },
  async openai_parse() {
    const found = await openai.chat.completions.parse({
      model: "default",
      messages,
      max_tokens: 200,
      response_format: zodResponseFormat(City, "city"),
    });
    assert.strictEqual(typeof found.choices[0].message.parsed.large, "boolean");
  },
  async openai_run_tools() {
    let called = 0;
    const runner = openai.chat.completions.runTools(
      {
        model: "default",
        messages,
        max_tokens: 200,
        tool_choice: { type: "function", function: { name: "hot" } },
        tools: [
          {
            type: "function",
            function: {
              name: "hot",
              description: "Tells whether it is hot.",
              parameters: { type: "object", properties: {}, additionalProperties: false },
              parse: JSON.parse,
              function: () => {
                called += 1;
                return "It is hot.";
              },
            },
          },
        ],
      },
      { maxChatCompletions: 2 },
    );
    await runner.done().catch(() => {});
    assert(called > 0);
  },
  async openai_responses() {
    const found = await openai.responses.create({ model: "default", input: "Hello", max_output_tokens: 8 });
    assert(found.output_text.length > 0);
  },
  async ai_chat() {
    const found = await generateText({ model: provider.chat("default"), messages, maxOutputTokens: 8 });
    assert(found.text.length > 0);
    const streamed = streamText({ model: provider.chat("default"), messages, maxOutputTokens: 8 });
    assert((await streamed.text).length > 0);
  },
  async ai_object() {
    const found = await generateObject({ model: provider.chat("default"), messages, schema: City });
    assert.strictEqual(typeof found.object.large, "boolean");
  },
  async ai_tools() {
    const found = await generateText({
      model: provider.chat("default"),
      messages,
      toolChoice: "required",
      tools: { hot: tool({ description: "Tells whether it is hot.", inputSchema: z.object({ hot: z.boolean() }) }) },
    });
    assert.strictEqual(found.toolCalls[0].toolName, "hot");
  },
  async ai_responses() {
    const found = await generateText({ model: provider.responses("default"), messages, maxOutputTokens: 16 });
    assert(found.text.length > 0);
    const made = await generateObject({ model: provider.responses("default"), messages, schema: City });
    assert.strictEqual(typeof made.object.large, "boolean");
  },
};

await clients[process.argv[2]]();
