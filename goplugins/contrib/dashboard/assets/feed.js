// News of the server: a stream where it has a thread for us, questions every second where it has not.

const EVERY = 1000;
const HIDDEN = 15_000; // between two questions while nobody sees the page
const FIRST = 4000; // a stream that is silent for so long is held back by something in between
const SILENCE = 20_000;
const AGAIN = 30_000; // until a stream is tried again

export class Feed {
  constructor({ message, state }) {
    this.onMessage = message;
    this.onState = state;
    this.mark = "";
    this.source = null;
    this.timer = 0;
    this.watchdog = 0;
    this.failures = 0;
    this.running = false;
    this.nextStream = 0;
    document.addEventListener("visibilitychange", () => this.running && this.restart());
  }

  start() {
    this.running = true;
    this.restart();
  }

  stop() {
    this.running = false;
    this.clear();
  }

  clear() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
    clearTimeout(this.watchdog);
  }

  restart() {
    this.clear();
    // A page that nobody sees holds no thread of the server's.
    if (document.hidden || Date.now() < this.nextStream) this.ask();
    else this.listen();
  }

  listen() {
    const source = new EventSource(`events?since=${encodeURIComponent(this.mark)}`);
    this.source = source;
    this.expect(FIRST);
    source.onmessage = (event) => {
      if (source !== this.source) return;
      this.expect(SILENCE);
      this.take(JSON.parse(event.data), "stream");
    };
    source.onerror = () => {
      if (source !== this.source) return;
      // The browser tries again by itself, unless the server has said that there is no stream.
      if (source.readyState === EventSource.CLOSED) this.giveUp();
    };
  }

  expect(patience) {
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.giveUp(), patience);
  }

  giveUp() {
    this.nextStream = Date.now() + AGAIN;
    this.clear();
    this.ask();
  }

  async ask() {
    const began = Date.now();
    try {
      const reply = await fetch(`state?since=${encodeURIComponent(this.mark)}`, { cache: "no-store" });
      if (!reply.ok) throw new Error(`the server answers ${reply.status}`);
      const message = await reply.json();
      if (!this.running || this.source) return;
      this.failures = 0;
      this.take(message, "polling");
    } catch (error) {
      if (!this.running || this.source) return;
      this.failures += 1;
      this.onState("lost", error instanceof TypeError ? "the server does not answer" : error.message);
    }
    const pause = document.hidden ? HIDDEN : Math.min(5000, EVERY * (1 + this.failures));
    this.timer = setTimeout(() => this.restart(), Math.max(100, pause - (Date.now() - began)));
  }

  take(message, how) {
    this.mark = message.mark;
    this.onMessage(message);
    this.onState(how, "");
  }
}
