"""Times llama.cpp through llama-cpp-python's low-level interface, one command a line on standard input.

    context N     decode a token to wake the threads, clear the cache and evaluate N tokens; answers the seconds of these
    rows R        decode R tokens, with logits for each, after the context, then forget them; do it again, and answer the
                  seconds of the second time: the first wakes the threads and fills the caches
    generate N T,T,...
                  decode N tokens greedily after these, or up to the end of the sequence; answers the seconds between the first
                  and the last token, and the number of tokens

Answers "ready VERSION" when the model is loaded. The library's log is held back, and shown if something fails.
"""

import os
import sys
import time

import llama_cpp
import numpy

held_back = []


@llama_cpp.llama_log_callback
def hold_back(level, text, user_data):
    held_back.append(text.decode(errors="replace"))


def fail(message):
    sys.stderr.write("".join(held_back[-40:]))
    sys.exit(message)


def main():
    path, threads, capacity = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the library prints must not mix with the answers
    llama_cpp.llama_log_set(hold_back, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_load_model_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        fail(f"llama.cpp can't load {path}")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = capacity
    parameters.n_batch = parameters.n_ubatch = min(capacity, 512)
    parameters.n_threads = parameters.n_threads_batch = threads
    context = llama_cpp.llama_new_context_with_model(model, parameters)
    if not context:
        fail(f"llama.cpp can't make a context of {capacity} tokens")
    held_back.clear()
    memory = llama_cpp.llama_get_memory(context)
    batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(start, count, every_row):
        batch.n_tokens = count
        for row in range(count):
            batch.token[row] = 100 + (start + row) % 1000
            batch.pos[row] = start + row
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = 0
            batch.logits[row] = every_row or row == count - 1
        begin = time.perf_counter()
        if llama_cpp.llama_decode(context, batch) != 0:
            fail("llama_decode failed")
        llama_cpp.llama_synchronize(context)
        return time.perf_counter() - begin

    vocabulary = llama_cpp.llama_model_get_vocab(model)
    vocabulary_size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def feed(tokens, position):
        """Evaluates tokens and returns the most likely next one."""
        for start in range(0, len(tokens), parameters.n_batch):
            chunk = tokens[start : start + parameters.n_batch]
            batch.n_tokens = len(chunk)
            for row, token in enumerate(chunk):
                batch.token[row] = token
                batch.pos[row] = position + start + row
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = 0
                batch.logits[row] = start + row == len(tokens) - 1
            if llama_cpp.llama_decode(context, batch) != 0:
                fail("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(numpy.ctypeslib.as_array(logits, shape=(vocabulary_size,)).argmax())

    def generate(limit, prompt):
        llama_cpp.llama_memory_clear(memory, True)
        token = feed(prompt, 0)
        begin, count = time.perf_counter(), 1
        while count < limit and not llama_cpp.llama_vocab_is_eog(vocabulary, token):
            token = feed([token], len(prompt) + count - 1)
            count += 1
        return time.perf_counter() - begin, count

    answers.write(f"ready {llama_cpp.__version__}\n")
    length = 0
    for line in sys.stdin:
        if line.startswith("generate "):
            _, limit, prompt = line.split()
            seconds, count = generate(int(limit), [int(token) for token in prompt.split(",")])
            answers.write(f"{seconds:.9f} {count}\n")
            continue
        command, number = line.split()
        number = int(number)
        if command == "context":
            llama_cpp.llama_memory_clear(memory, True)
            decode(0, 1, False)
            llama_cpp.llama_memory_clear(memory, True)
            length, seconds = number, 0.0
            for start in range(0, number, 512):
                seconds += decode(start, min(512, number - start), False)
        else:
            for _ in range(2):
                seconds = decode(length, number, True)
                llama_cpp.llama_memory_seq_rm(memory, 0, length, -1)
        answers.write(f"{seconds:.9f}\n")


main()
