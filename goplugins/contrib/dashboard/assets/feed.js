// Polls the server for the state of all plugins: each second; less often while the page is hidden or requests fail.

const INTERVAL = 1000;
const SOON = 250; // after an unchanged snapshot, so that polls follow samples closely
const HIDDEN_INTERVAL = 15_000;
const LONGEST_INTERVAL = 5000;

export class Feed {
  constructor({ message, state }) {
    this.onMessage = message;
    this.onState = state;
    this.timer = 0;
    this.failures = 0;
    this.at = 0; // time of the last snapshot
    this.round = 0; // incremented by start and stop; replies of earlier rounds are dropped
    document.addEventListener("visibilitychange", () => this.timer && this.start());
  }

  start() {
    this.stop();
    this.poll(this.round);
  }

  stop() {
    this.round += 1;
    clearTimeout(this.timer);
    this.timer = 0;
  }

  async poll(round) {
    const began = Date.now();
    this.timer = -1; // running
    let interval = INTERVAL;
    try {
      const reply = await fetch("state", { cache: "no-cache" });
      if (!reply.ok) throw new Error(`the server replied ${reply.status}`);
      const message = await reply.json();
      if (round !== this.round) return;
      this.failures = 0;
      if (message.at === this.at) interval = SOON;
      else this.onMessage(message);
      this.at = message.at;
      this.onState("live", "");
    } catch (error) {
      if (round !== this.round) return;
      this.failures += 1;
      this.onState("lost", error instanceof TypeError ? "the server does not answer" : error.message);
    }
    const pause = document.hidden ? HIDDEN_INTERVAL : Math.min(LONGEST_INTERVAL, interval * (1 + this.failures));
    this.timer = setTimeout(() => this.poll(round), Math.max(100, pause - (Date.now() - began)));
  }
}
