/** Runs a subscriber in Node or in a page and hands over everything that it says. */

import { Subscriber } from "../../client/js/ledgerflux.js";

/**
 * @param {{url: string, options: object, stopAfter?: number}} task
 * @param {(event: object) => void} emit
 */
export async function collect({ url, options, stopAfter }, emit) {
  const subscriber = new Subscriber(url, { ...options, notify: (said) => emit({ said }) });
  let count = 0;
  try {
    for await (const update of subscriber) {
      emit(update);
      count += 1;
      if (count === stopAfter) break;
    }
    emit({ position: subscriber.position });
  } catch (error) {
    emit({ error: error.name, message: error.message, code: error.code ?? null });
  }
}

if (globalThis.process) {
  await collect(JSON.parse(process.argv[2]), (event) => console.log(JSON.stringify(event)));
}
