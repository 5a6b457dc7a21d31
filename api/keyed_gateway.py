"""The models as one API key may use them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from api.gateway import Gateway
from api.meter import Meter
from deployments.backends.base import ModelCard, Task
from deployments.errors import ModelNotAllowed


class KeyedGateway:
    """For one HTTP request, the way to the models that its key allows (`gateway.Gateway`); all it takes is metered."""

    __slots__ = ("_gateway", "_key", "_meter")

    def __init__(self, gateway: Gateway, meter: Meter) -> None:
        self._gateway = gateway
        self._meter = meter
        self._key = meter.key

    def cards(self) -> list[ModelCard]:
        return [card for card in self._gateway.cards() if self._key.may_use(card.name, card.alias_of)]

    def resolve(self, name: str | None, task: Task) -> ModelCard:
        """Raises ModelNotAllowed too."""
        card = self._gateway.resolve(name, task)
        if self._key.may_use(name, card.name):
            return card
        if name:
            raise ModelNotAllowed(f'The API key may not use the model "{name}"; GET /v1/models lists those it may.').at(
                "model"
            )
        able = [card for card in self.cards() if task in card.tasks and not card.disabled]
        if not able:
            raise ModelNotAllowed("No model was named, and the API key may use none that can do this.").at("model")
        chosen = min(able, key=lambda card: (bool(card.alias_of), card.loose, card.name))
        return self._gateway.resolve(chosen.name, task)

    async def call(self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False) -> Any:
        use = await self._meter.admit(request)
        try:
            answer = await self._gateway.call(model, method, request, large=large, merged=merged)
        except Exception:
            use.fail()
            raise
        use.count(answer)
        return answer

    async def stream(
        self, model: str, method: str, request: object, *, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        use = await self._meter.admit(request)
        try:
            async with aclosing(self._gateway.stream(model, method, request, large=large)) as items:
                async for item in items:
                    use.count(item)
                    yield item
        except Exception:
            use.fail()
            raise

    async def reload(self) -> dict[str, str]:
        return await self._gateway.reload()

    def ready(self) -> str | None:
        return self._gateway.ready()
