// A model that calls tools, in TypeScript. OPENAI_BASE_URL says which server, else OpenAI's.

import { NonRetryableError, inputs, reportProgress, run } from "./koco.js";

interface Call {
  id: string;
  function: { name: string; arguments: string };
}

interface Message {
  role: string;
  content: string | null;
  tool_calls?: Call[];
  tool_call_id?: string;
}

interface Completion {
  choices: { message: Message }[];
  usage?: { prompt_tokens: number; completion_tokens: number };
}

const tools: Record<string, (text: string) => string> = {
  forecast: (city) => `In ${city} there will be ${["rain", "wind", "sun"][city.length % 3]}.`,
  clothing: (weather) => `${weather} Take ${weather.includes("rain") ? "an umbrella" : "a hat"}.`,
};

const describe = (name: string, description: string, parameter: string) => ({
  type: "function",
  function: {
    name,
    description,
    parameters: { type: "object", properties: { [parameter]: { type: "string" } }, required: [parameter] },
  },
});

const offered = [
  describe("forecast", "Tells tomorrow's weather in a city.", "city"),
  describe("clothing", "Tells what to wear in some weather.", "weather"),
];

async function complete(messages: Message[], stopped: AbortSignal): Promise<Message> {
  const server = process.env["OPENAI_BASE_URL"] ?? "https://api.openai.com/v1";
  const answer = await fetch(`${server}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${process.env["OPENAI_API_KEY"]}` },
    body: JSON.stringify({ model: process.env["MODEL"] ?? "gpt-5-mini", messages, tools: offered }),
    signal: stopped,
  });
  if (!answer.ok) {
    const text = `the model's server answers ${answer.status}: ${(await answer.text()).slice(0, 500)}`;
    throw answer.status === 401 ? new NonRetryableError(text) : new Error(text);
  }
  const { choices, usage } = (await answer.json()) as Completion;
  const message = choices[0]?.message;
  if (message === undefined) {
    throw new Error("the model's server answers nothing");
  }
  const next = message.tool_calls?.map((call) => call.function.name).join(", ") ?? "answers";
  reportProgress(next, usage?.prompt_tokens ?? 0, usage?.completion_tokens ?? 0);
  return message;
}

await run(async (stopped) => {
  const { city } = inputs();
  if (typeof city !== "string") {
    throw new NonRetryableError("inputs.city is missing, or no string");
  }
  const messages: Message[] = [{ role: "user", content: `What shall I wear tomorrow in ${city}?` }];
  const called: string[] = [];
  for (;;) {
    const message = await complete(messages, stopped);
    messages.push(message);
    if (message.tool_calls === undefined || message.tool_calls.length === 0) {
      return { answer: message.content, tools: called };
    }
    for (const { id, function: asked } of message.tool_calls) {
      console.log(`calls ${asked.name}: ${asked.arguments}`);
      called.push(asked.name);
      const [text] = Object.values(JSON.parse(asked.arguments) as Record<string, string>);
      const said = tools[asked.name]?.(text ?? "") ?? `there is no tool ${asked.name}`;
      messages.push({ role: "tool", tool_call_id: id, content: said });
    }
  }
});
