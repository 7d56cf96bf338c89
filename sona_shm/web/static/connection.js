/** The stream of states, opened again whenever it breaks. */

const SILENCE_MS = 6000;
const RETRY_MS = 1000;

/** Call onState with each state, onLost when the stream breaks; retries for ever. */
export function follow(url, onState, onLost) {
  let watchdog;
  let source;

  function open() {
    source = new EventSource(url);
    source.onmessage = (event) => {
      watch();
      onState(JSON.parse(event.data));
    };
    source.onerror = lost;
    watch();
  }

  // A server that hangs sends nothing and closes nothing.
  function watch() {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, SILENCE_MS);
  }

  function lost() {
    clearTimeout(watchdog);
    source.close();
    onLost();
    setTimeout(open, RETRY_MS);
  }

  open();
}
