const MASK = '[secret]';

const PATTERNS: readonly [RegExp, string][] = [
  // postgres://user:password@host, https://key:secret@store
  [/(\b[a-z][a-z0-9+.-]*:\/\/[^\s/:@]*:)[^\s/@]+@/gi, `$1${MASK}@`],
  // password=…, "secretAccessKey": "…", AWS_SECRET_ACCESS_KEY=…, X-Amz-Signature=…
  [
    /(["']?\b[\w-]*(?:password|passwd|secret|token|credential|signature|api[-_]?key|access[-_]?key(?:[-_]?id)?)[\w-]*["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"']+)/gi,
    `$1${MASK}`,
  ],
  [/\b(Bearer|Basic|AWS4-HMAC-SHA256)\s+[^\s,]+/g, `$1 ${MASK}`],
  // The signature in an address of Azure, and the keys of its connection strings
  [/\b(sig|AccountKey|SharedAccessSignature)=[^\s;&"']+/gi, `$1=${MASK}`],
  // Tokens of Google, and signed ones of anybody
  [/\bya29\.[\w.-]+/g, MASK],
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]+/g, MASK],
  // Access key ids of AWS
  [/\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/g, MASK],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, MASK],
];

/**
 * Takes out of a text what looks like a secret. Messages of our own never hold one; this is for what libraries and
 * servers say in errors that nobody foresaw, before it gets into histories and logs.
 */
export function scrub(text: string): string {
  return PATTERNS.reduce(
    (scrubbed, [pattern, replacement]) => scrubbed.replaceAll(pattern, replacement),
    text,
  );
}
