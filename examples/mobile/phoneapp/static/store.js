// What outlives a page, in IndexedDB: person (the refresh token, the ID token and the name; see the
// package comment for what that risks), key (what the tokens are bound to) and nonce (for its
// proofs; both are dpop.js's), asked (the sign-in under way) and pending (the code that is being
// claimed). Not in sessionStorage: Chromium has been seen to return what an earlier page had
// written there, after the way to the provider and back.
function run(mode, work) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open('approver', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('kept');
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const transaction = opening.result.transaction('kept', mode, { durability: 'strict' });
      const request = work(transaction.objectStore('kept'));
      // Not before it is on disk: a rotated refresh token exists once.
      transaction.oncomplete = () => {
        opening.result.close();
        resolve(request.result);
      };
      transaction.onabort = () => reject(transaction.error);
    };
  });
}

export const kept = name => run('readonly', store => store.get(name));
export const keep = (name, record) => run('readwrite', store => store.put(record, name));
export const forget = name => run('readwrite', store => store.delete(name));
export const forgetAll = () => run('readwrite', store => store.clear());
