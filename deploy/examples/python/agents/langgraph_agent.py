"""A model that calls tools, with LangGraph. OPENAI_BASE_URL says which server, else OpenAI's."""

import os

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from kodosumi_koco import Tracer, report_progress


@tool
def forecast(city: str) -> str:
    """Tells tomorrow's weather in a city."""
    return f"In {city} there will be {('rain', 'wind', 'sun')[len(city) % 3]}."


@tool
def clothing(weather: str) -> str:
    """Tells what to wear in some weather."""
    return f"{weather} Take {'an umbrella' if 'rain' in weather else 'a hat'}."


async def advise(city: str, tracer: Tracer) -> dict[str, object]:
    """Asks a model what to wear in a city."""
    tools = [forecast, clothing]
    model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini")).bind_tools(tools)

    async def ask(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")

    called: list[str] = []
    question = HumanMessage(f"What shall I wear tomorrow in {city}?")
    answer = ""
    async for update in graph.compile().astream({"messages": [question]}, stream_mode="updates"):
        for message in update.get("ask", {}).get("messages", []):
            if used := message.usage_metadata:
                report_progress(input_tokens=used["input_tokens"], output_tokens=used["output_tokens"])
            for call in message.tool_calls:
                called.append(call["name"])
                print(f"calls {call['name']}: {call['args']}")
                await tracer.action({"tool": call["name"], **call["args"]})
            answer = message.text or answer
    await tracer.markdown(answer)
    return {"answer": answer, "tools": called}
