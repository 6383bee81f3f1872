// Requests and their answers, and what can go wrong with them.

// A Fault is what the person is told: a key of the texts, and what the provider said beside it.
export class Fault extends Error {
  constructor(key, detail = {}) {
    super(key);
    this.key = key;
    this.detail = detail;
  }

  // over reports whether nobody is signed in any more.
  get over() {
    return this.key === 'signed_out' || this.key === 'key_lost';
  }
}

// ask fetches, and tells a network without answers from an answer.
export async function ask(address, options = {}) {
  try {
    return await fetch(address, { cache: 'no-store', credentials: 'omit', redirect: 'error', referrerPolicy: 'no-referrer', signal: AbortSignal.timeout(20_000), ...options });
  } catch {
    throw new Fault('offline');
  }
}

// body reads an answer that should be JSON; an empty object when it is none.
export const body = reply => reply.json().catch(() => ({}));
