// The official client for Node against a service: prints what it understood as one line of JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, modules] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is a list?" }];
const common = { model: "demo", messages, max_tokens: 24, temperature: 0 };
const schema = {
  type: "object",
  properties: { size: { type: "integer", minimum: 1, maximum: 99 } },
  required: ["size"],
  additionalProperties: false,
};

const whole = await client.chat.completions.create(common);

let streamed = "";
let usage = null;
const stream = await client.chat.completions.create({
  ...common,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const runner = client.chat.completions.stream(common);
const gathered = await runner.finalChatCompletion();

const tools = [{ type: "function", function: { name: "measure", parameters: schema } }];
const called = await client.chat.completions.create({
  ...common,
  max_tokens: 200,
  tools,
  tool_choice: "required",
  parallel_tool_calls: false,
});
const format = {
  type: "json_schema",
  json_schema: { name: "answer", schema, strict: true },
};
const parsed = await client.chat.completions.parse({
  ...common,
  max_tokens: 200,
  response_format: format,
});
const text = await client.completions.create({ model: "demo", prompt: ["a", "b"], max_tokens: 4 });

const models = [];
for await (const model of client.models.list()) models.push(model.id);

let refused = {};
try {
  await client.chat.completions.create({ ...common, n: 0 });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, param: error.param };
}

const left = await client.chat.completions.create({ ...common, max_tokens: 400, stream: true });
for await (const chunk of left) {
  if (chunk) break; // which aborts the request
}

const { response } = await client.chat.completions.create(common).withResponse();

console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    streamed,
    usage: usage.completion_tokens,
    gathered: gathered.choices[0].message.content,
    call: called.choices[0].message.tool_calls[0].function,
    parsed: parsed.choices[0].message.content,
    texts: text.choices.map((choice) => choice.index),
    models,
    refused,
    limit: response.headers.get("x-ratelimit-limit-requests"),
  }),
);
