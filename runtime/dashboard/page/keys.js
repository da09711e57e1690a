// The API keys that a person gave: in this tab's memory only, and gone with it.
// The operator's endpoints and those that generate may want different ones.

const NAMES = { admin: "remuda-admin-key", serve: "remuda-serve-key" };

export function keyOf(scope) {
  return sessionStorage.getItem(NAMES[scope]) ?? "";
}

export function keepKey(scope, key) {
  sessionStorage.setItem(NAMES[scope], key);
}

export function forgetKeys() {
  for (const name of Object.values(NAMES)) sessionStorage.removeItem(name);
}

export function hasKey() {
  return Object.values(NAMES).some((name) => sessionStorage.getItem(name));
}

/** Headers for a request of a scope; a chat goes by the operator's key where it has none. */
export function headersFor(scope) {
  const key = keyOf(scope) || keyOf("admin");
  return key ? { Authorization: `Bearer ${key}` } : {};
}
