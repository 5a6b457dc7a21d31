"""Models' lives on a running server: cold, failing, removed, changed, idle; and what is killed under it."""

import threading

import httpx
import openai
import psutil

from deployments.serve_apps import app_name
from tests.serving import KEY, Server, eventually


def say(model: str, text: str = "hello", **fields: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def chat(server: Server, model: str, text: str = "hello") -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/chat/completions", json=say(model, text))


def test_a_streaming_client_of_a_cold_model_is_kept_alive(server: Server) -> None:
    server.write_model("cold", options='["load_delay:2"]')
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=say("cold", stream=True))
    lines = [line for line in response.text.splitlines() if line]
    assert lines[0].startswith(":"), "a comment while the model loads"
    assert lines[-1] == "data: [DONE]" and '"error"' not in response.text
    server.remove_model("cold")


def test_a_failed_load_says_why_and_cools_down_longer(server: Server) -> None:
    server.write_model("broken", options='["fail_load:tensor 7 is torn"]')

    def cooldown() -> int:
        response = chat(server, "broken")
        assert response.status_code == 503
        assert "tensor 7 is torn" in response.json()["error"]["message"]
        return int(response.headers["retry-after"])

    first = cooldown()
    assert cooldown() <= first, "no new try during the cool-down"
    eventually(lambda: cooldown() > first, 60, 0.5)  # the next try was made, and failed again
    server.remove_model("broken")


def test_many_cold_models_load_at_once(server: Server) -> None:
    names = [f"herd-{i}" for i in range(4)]
    for name in names:
        server.write_model(name)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda n=name: answers.append(chat(server, n).status_code)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 4
    for name in names:
        server.remove_model(name)


def test_removing_a_model_answers_who_waits_for_it(server: Server) -> None:
    server.write_model("goner", options='["load_delay:60"]')
    answers: list[httpx.Response] = []
    waiting = [threading.Thread(target=lambda: answers.append(chat(server, "goner"))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    eventually(lambda: server.replica("goner"))
    server.remove_model("goner")
    for thread in waiting:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [404] * 3
    eventually(lambda: server.replica("goner") is None)


def test_a_config_that_appears_and_changes_is_picked_up_without_being_told(server: Server) -> None:
    path = server.models_path / "fresh.yaml"
    path.write_text("name: fresh\nbackend: echo\n")
    with server.client() as client:
        eventually(lambda: "fresh" in client.get("/v1/models").text)
        assert chat(server, "fresh", "hello").json()["choices"][0]["message"]["content"] == "hello"
        path.write_text("name: fresh\nbackend: echo\noptions: ['repeat:2']\n")
        eventually(lambda: chat(server, "fresh", "ab").json()["choices"][0]["message"]["content"] == "abab")
        path.unlink()
        eventually(lambda: "fresh" not in client.get("/v1/models").text)
    assert chat(server, "fresh").status_code == 404


def test_a_refused_config_is_named_and_refused_alone(server: Server) -> None:
    path = server.models_path / "odd.yaml"
    path.write_text("name: odd\nbackend: echo\ncontext_size: lots\n")
    with server.client() as client:
        errors = client.post("/models/reload").json()
        assert "odd.yaml" in str(errors) and "context_size" in str(errors)
        assert "echo" in client.get("/v1/models").text
    path.unlink()


def test_an_idle_model_is_unloaded_and_comes_back(server: Server) -> None:
    server.write_model("dozy", idle_timeout="2s")
    assert chat(server, "dozy").status_code == 200
    first = server.replica("dozy")
    assert first is not None
    eventually(lambda: server.replica("dozy") is None)
    assert chat(server, "dozy").status_code == 200
    server.remove_model("dozy")


def test_a_replica_that_dies_in_the_middle_ends_its_stream_with_an_error_and_is_replaced(server: Server) -> None:
    server.write_model("mortal", options='["exit_after:3"]')
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=say("mortal", "hello", stream=True))
        assert '"code":"replica_died"' in response.text and response.text.endswith("data: [DONE]\n\n")
        short = client.post("/v1/chat/completions", json=say("mortal", "hi"))
    assert short.json()["choices"][0]["message"]["content"] == "hi"
    server.remove_model("mortal")


def test_the_controllers_death_stops_nothing_and_the_next_one_adopts(server: Server) -> None:
    assert chat(server, "echo").status_code == 200
    replica, (controller,) = server.replica("echo"), server.processes("ServeReplica:api:ModelController")
    controller.kill()

    def another() -> bool:
        assert chat(server, "echo").status_code == 200
        return any(p.pid != controller.pid for p in server.processes("ServeReplica:api:ModelController"))

    eventually(another)
    server.write_model("after")
    assert chat(server, "after").status_code == 200
    assert server.replica("echo") == replica, "the running model was adopted, not started again"
    server.remove_model("after")


def test_one_of_two_ingresses_may_die(server: Server) -> None:
    """A client with the SDK's usual retries notices nothing; a request on the dying process itself is lost once."""
    assert chat(server, "echo").status_code == 200
    ingresses = {process.pid for process in server.processes("ServeReplica:api:Ingress")}
    assert len(ingresses) == 2
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=60) as client:

        def replaced() -> bool:
            assert client.completions.create(model="echo", prompt="hello").choices[0].text == "hello"
            now = {process.pid for process in server.processes("ServeReplica:api:Ingress")}
            return len(now) == 2 and now != ingresses

        psutil.Process(min(ingresses)).kill()
        eventually(replaced)


def test_a_stray_application_name_is_stable() -> None:
    assert app_name("My Model/7B") == app_name("My Model/7B") != app_name("my model/7b")
    assert app_name("My Model/7B").startswith("m-my-model-7b-")
