//! The guards of the Python package, which its own tests hold: one case of the suite runs them all.

use super::Mutant;

const CALLS: &str = "crates/python/python/seabed_adk/_calls.py";
const CONNECT: &str = "crates/python/src/connect.rs";
const JSON: &str = "crates/python/python/seabed_adk/_json.py";
const RUNTIME: &str = "crates/python/src/runtime.rs";
const SERVICE: &str = "crates/python/python/seabed_adk/_service.py";

const ON_SQLITE: &str = "sqlite_file::the_tests_of_the_python_package";
const ON_POSTGRES: &str = "postgres_18::the_tests_of_the_python_package";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        guard: "Python: a fork starts threads of its own",
        file: RUNTIME,
        from: "State::Started(threads) => threads.process != process::id(),",
        to: "State::Started(_) => false,",
        case: ON_POSTGRES,
    },
    Mutant {
        guard: "Python: a fork opens connections of its own",
        file: CONNECT,
        from: "if opened.process != process::id() {",
        to: "if false {",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: a fork is refused an open file",
        file: CONNECT,
        from: "if of_file.clone().any(|open| open.process != process::id()) {",
        to: "if false {",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: a close waits for calls",
        file: CONNECT,
        from: "let _ended = self.calls.write().await;",
        to: "",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: a panic becomes an exception",
        file: RUNTIME,
        from: "AssertUnwindSafe(operation).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))",
        to: "operation.await",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: an outcome goes to the loop of its caller",
        file: RUNTIME,
        from: ".find(|(other, _)| other.is(&event_loop))",
        to: ".find(|_| true)",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: the threads end before the interpreter",
        file: CALLS,
        from: "atexit.register(_native.shutdown)",
        to: "_ = atexit",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: an append goes on when its call is cancelled",
        file: SERVICE,
        from: "return await asyncio.shield(append)",
        to: "return await append",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: a call that waits for another append has not begun",
        file: SERVICE,
        from: "        try:\n            await lock.acquire()\n        except BaseException:\n            ended.set_result(None)\n            raise\n        append = asyncio.ensure_future(self._append(session, event, at_any_revision))\n",
        to: "        async def locked():\n            await lock.acquire()\n            return await self._append(session, event, at_any_revision)\n        append = asyncio.ensure_future(locked())\n",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: appends through one object wait for each other",
        file: SERVICE,
        from: "return self._locks.setdefault(key, asyncio.Lock())",
        to: "return asyncio.Lock()",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: a lock for each loop",
        file: SERVICE,
        from: "key = (id(asyncio.get_running_loop()), id(session))",
        to: "key = (0, id(session))",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: unknown fields go through google-adk's own hooks",
        file: JSON,
        from: "model[\"config\"][\"extra_fields_behavior\"] = \"forbid\"",
        to: "pass",
        case: ON_SQLITE,
    },
    Mutant {
        guard: "Python: nulls of parts go through google-adk's own constructor",
        file: JSON,
        from: "field[\"schema\"][\"schema\"] = optional[\"schema\"]",
        to: "pass",
        case: ON_SQLITE,
    },
];
