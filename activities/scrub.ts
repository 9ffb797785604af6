const MASK = '[secret]';

/** Names whose value is secret, in any spelling; what stands before and after belongs to the name. */
const SECRET_NAME =
  '(?<!invalid|expired)' +
  '(?:password|passwd|passphrase|pwd|secret|token|credential|signature|(?<![a-z])sig(?![a-z])' +
  '|(?:api|access|account|storage|customer|payload)[-_ ]?key)' +
  // tokenUri, secretName, TOKEN_FILE, SignatureDoesNotMatch and CredentialsProviderError say nothing secret
  String.raw`[\w\-\[\]]{0,40}(?<!file|path|directory|name|ur[il]|type|match|required|expired|error|exception)`;

/** `=`, `:` or `=>`, also as an address spells it, and the quote that ends the name, in JSON within JSON too. */
const SEPARATOR = String.raw`(?<shut>\\*["']?)[ \t]*(?:=>?|:|%(?:25)*3[da])[ \t]*`;

/** Says that there is none, or that one stands here, or is a whole of which the parts are looked at. */
const NO_VALUE = String.raw`(?!\{|…|\.\.\.|(?:true|false|null|undefined)(?![\w-]))`;
/** Up to the quote that ends it, with as many backslashes; a text that was cut ends it as well. */
const QUOTED =
  String.raw`(?<escapes>\\+)(?<quote>["'])(?:(?!(?<!\\)\k<escapes>\k<quote>|(?<!\\)")[\s\S])*(?:\k<escapes>\k<quote>)?` +
  String.raw`|"(?:\\[\s\S]|[^"\\])*(?:"|\\?$)` +
  // In JSON the backslash before a quote may be two: whichever way, one that ends somewhere.
  String.raw`|'(?:\\+[\s\S]|[^'\\])*'(?=[\s,;&)}\]"\\]|$)|'(?:\\[\s\S]|[^'\\])*'(?=[\s,;&)}\]"\\]|$)`;
const LIST =
  String.raw`\[(?!\s*\\)(?:"(?:\\[\s\S]|[^"\\])*(?:"|\\?$)|[^\]"])*\]?` +
  String.raw`|\[(?:\\[\s\S]|[^\]"\\])*\]?`;
/** Behind a name in quotes it is JSON's. */
const NUMBER = String.raw`(?<=["'][ \t]*:[ \t]*)-?\d[\d.e+-]*(?=[\s,}\]\\]|$)`;
/** In the query of an address, and in a connection string of Azure, the rest may be read: a value is escaped, or base64. */
const PARAMETER =
  String.raw`(?<=[?&][\w-]{1,60}=|(?<![a-z])sig(?:=|%(?:25)*3d))[^\s&"\\]+` +
  String.raw`|(?<=AccountKey *= *)[^\s;"\\]+`;
/** What has no quotes ends at a space: any other character may be of a password. */
const WORD = String.raw`(?:\\[\s\S]|[^\s"\\])+\\?`;

const NAMED = new RegExp(
  `(?<name>${SECRET_NAME}${SEPARATOR})${NO_VALUE}(?<value>${PARAMETER}|${QUOTED}|${LIST}|${NUMBER}|${WORD})`,
  'gi',
);

/** What tells by itself that it is secret, and what of it stays. Lengths are bounded, so that a long line takes no time. */
const PATTERNS: readonly [RegExp, string][] = [
  // postgres://user:password@host, whatever is in the password; a port is none
  [
    /(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,30}:\/\/[^\s/:@"[]{0,300}:)(?!\d+(?:[/?#"]|$))(?:\\[\s\S]|[^\s"\\]){1,2000}@/gi,
    `$1${MASK}@`,
  ],
  // http://TOKEN@proxy; of PostgreSQL it is only a name
  [/(?<![a-z0-9+.-])((?!postgres)[a-z][a-z0-9+.-]{0,30}:\/\/)[^\s/:@"]{1,2000}@/gi, `$1${MASK}@`],
  [/(%3A%2F%2F)(?:(?!%2F|%26)[^\s"&]){1,2000}%40/gi, `$1${MASK}%40`],
  [/(\bauthorization\\*["']?\s*[:=]\s*[\\"'[ ]{0,9})[^\r\n"'\\]+/gi, `$1${MASK}`],
  [/\b(Bearer|Basic|SharedKey(?:Lite)?|AWS4-HMAC-SHA256)\s+[^\s,"\\]+/g, `$1 ${MASK}`],
  // Tokens of Google, and signed ones of anybody
  [/\bya29\.[\w.-]+/g, MASK],
  [/\b1\/\/0[\w-]{6,}/g, MASK],
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]+/g, MASK],
  // Access key ids of AWS, and Google's for S3
  [/\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/g, MASK],
  [/\bGOOG1E[A-Z0-9]{6,}\b/g, MASK],
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, MASK],
];

/**
 * Takes out of a text what looks like a secret. Messages of our own never hold one; this is for what libraries and
 * servers say in errors that nobody foresaw, before it gets into histories and logs. A line of JSON stays one.
 */
export function scrub(text: string): string {
  const named = text.replaceAll(NAMED, (pair: string, ...rest) => {
    const end = Number(rest.at(-3)) + pair.length;
    return maskValue(rest.at(-1) as NamedGroups, text.slice(end, end + 2));
  });
  return PATTERNS.reduce(
    (scrubbed, [pattern, replacement]) => scrubbed.replaceAll(pattern, replacement),
    named,
  );
}

interface NamedGroups {
  readonly name: string;
  readonly shut: string;
  readonly value: string;
  readonly escapes?: string;
  readonly quote?: string;
}

/** @param after what follows, as much as tells whether it is prose */
function maskValue({ name, shut, value, escapes, quote }: NamedGroups, after: string): string {
  const end = quote === undefined ? /^["']/.exec(value)?.[0] : `${escapes}${quote}`;
  if (end !== undefined) {
    const isCut = value.length < 2 * end.length || !value.endsWith(end);
    return `${name}${end}${MASK}${isCut ? '' : end}`;
  }
  const isNameQuoted = /["']$/.test(shut);
  if (isProse(value, isNameQuoted, after)) return `${name}${value}`;
  // A number, or a list, behind a name in quotes is JSON.
  return isNameQuoted ? `${name}${shut}${MASK}${shut}` : `${name}${MASK}`;
}

/** `field "s3Credentials": half a key pair`, `can't read /secrets/token: ENOENT: …`: what is said of a thing, and not its value. */
function isProse(value: string, isNameQuoted: boolean, after: string): boolean {
  if (/^E[A-Z]{3,12}:$/.test(value)) return true;
  return isNameQuoted && /^[a-z]+,?$/.test(value) && /^ [a-z"'(\\]/.test(after);
}
