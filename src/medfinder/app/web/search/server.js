// Asking the server: JSON, an upload with its progress, and who may.

// What the server said no with; status 0 where it did not answer.
export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

let onNoKey = () => {};
export const whenKeyNeeded = (act) => { onNoKey = act; };

export async function ask(path, { method = "GET", said, signal } = {}) {
  const options = { method, signal, headers: {} };
  if (said !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(said);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Is it still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw refused(answer.status, body, path);
  return body;
}

function refused(status, body, path) {
  if (status === 401 && path !== "/v1/session") onNoKey();
  return new Refused(status, body.error?.message || `The server answered ${status}.`);
}

// Sends a form and tells how far it has come; fetch cannot. Gives the promise of the answer, and how to give up.
export function send(path, fields, onProgress) {
  const request = new XMLHttpRequest();
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  const answer = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : null);
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* the status says enough */ }
      if (request.status < 300) resolve(body); else reject(refused(request.status, body, path));
    };
    request.onerror = () => reject(new Refused(0, "The upload broke off. Is the server still running?"));
    request.onabort = () => reject(new DOMException("given up", "AbortError"));
    request.open("POST", path);
    request.send(form);
  });
  return { answer, abort: () => request.abort() };
}

export const caseLink = (id, rest = "") => `/v1/cases/${encodeURIComponent(id)}${rest}`;
