"""A model that calls a tool and fills a form, with pydantic-ai. OPENAI_BASE_URL says which server, else OpenAI's."""

import os

from pydantic import BaseModel
from pydantic_ai import Agent


class Advice(BaseModel):
    """The result."""

    city: str
    text: str


async def advise(city: str) -> Advice:
    """Asks a model what to wear in a city."""
    agent = Agent(f"openai-chat:{os.environ.get('MODEL', 'gpt-5-mini')}", output_type=Advice)

    @agent.tool_plain
    def forecast(city: str) -> str:
        """Tells tomorrow's weather in a city."""
        print(f"forecast for {city}")
        return f"In {city} there will be {('rain', 'wind', 'sun')[len(city) % 3]}."

    run = await agent.run(f"What shall I wear tomorrow in {city}?")
    return run.output
