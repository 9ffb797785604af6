import { isIPv4, isIPv6 } from 'node:net';
import { isMainThread } from 'node:worker_threads';
import { BackupError } from '../core/errors.ts';
import { cutText } from '../core/short-text.ts';

/** The proxies of an environment, as Node's agents take them. */
export interface Proxies {
  readonly HTTP_PROXY?: string;
  readonly HTTPS_PROXY?: string;
  readonly NO_PROXY: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Who says by which role a machine or pod acts: addresses that mean something on this host alone. */
const METADATA = [
  '169.254.169.254',
  '169.254.170.2',
  '169.254.170.23',
  'fd00:ec2::254',
  'fd00:ec2::23',
  'metadata.google.internal',
  'metadata',
];
/** More are not named in the warning. */
const MOST_NAMED = 10;
const THIS_HOST = ['localhost', '.localhost', '127.0.0.0-127.255.255.255', '::1'];

/**
 * The proxies that requests to a store go through: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in small letters first, as
 * barman-cloud's libraries read them. `NO_PROXY` names hosts with all below them, addresses, and networks (`10.0.0.0/8`,
 * `10.1.`). What is not understood there is named in a warning of the process, once. This host and metadata services are
 * never asked through one.
 *
 * @returns `undefined` without a proxy
 * @throws BackupError `config-invalid` for what is no address of a proxy; it is not quoted, since it may hold a password
 */
export function proxiesOf(environment: Environment): Proxies | undefined {
  const http = proxyAddress(environment, 'http_proxy');
  const https = proxyAddress(environment, 'https_proxy');
  if (http === undefined && https === undefined) return undefined;
  const entries = entriesOf(environment);
  warnOf(entries.filter((entry) => understood(entry) === undefined));
  const spared = entries.flatMap((entry) => understood(entry) ?? []);
  return {
    ...(http !== undefined && { HTTP_PROXY: http }),
    ...(https !== undefined && { HTTPS_PROXY: https }),
    NO_PROXY: spared.includes('*') ? '*' : [...THIS_HOST, ...METADATA, ...spared].join(','),
  };
}

/**
 * Has the libraries of the providers ask metadata services and this host directly, which they do not by themselves: the
 * addresses are added to `NO_PROXY` where a proxy is set. Changes `environment`.
 */
export function askMetadataDirectly(environment: Record<string, string | undefined>): void {
  const given = entriesOf(environment);
  const moved = valueOf(environment, 'gce_metadata_host')?.replace(/:\d+$/, '');
  const direct = ['localhost', '127.0.0.1', '::1', ...METADATA, ...(moved === undefined ? [] : [moved])];
  const missing = [...new Set(direct)].filter((host) => !given.includes(host));
  if (proxiesOf(environment) === undefined || given.includes('*') || missing.length === 0) return;
  const spared = [...given, ...missing].join(',');
  for (const name of ['NO_PROXY', 'no_proxy']) environment[name] = spared;
}

function valueOf(environment: Environment, name: string): string | undefined {
  const value = environment[name] ?? environment[name.toUpperCase()];
  return value === undefined || value.trim() === '' ? undefined : value.trim();
}

function proxyAddress(environment: Environment, name: string): string | undefined {
  const given = valueOf(environment, name);
  if (given === undefined) return undefined;
  const address = /^[a-z][a-z0-9+.-]*:\/\//i.test(given) ? given : `http://${given}`;
  if (/^https?:\/\//i.test(address) && URL.canParse(address)) return address;
  throw new BackupError('config-invalid', `${name.toUpperCase()} is no address of a proxy for HTTP`, {
    hint: 'write http://HOST:PORT, or https://HOST:PORT; other kinds of proxies are not used',
  });
}

function entriesOf(environment: Environment): string[] {
  return (valueOf(environment, 'no_proxy') ?? '').split(/[\s,]+/).filter((entry) => entry !== '');
}

/** Each client of a store, in each thread, reads the environment again; it is said once. */
let warnedOf = '';

function warnOf(entries: readonly string[]): void {
  const named = entries
    .slice(0, MOST_NAMED)
    // in front of an @ may be a password
    .map((entry) => `"${cutText(entry.replace(/^.*@/, '…@'), 60)}"`);
  const text = [...named, ...(entries.length > named.length ? ['and others'] : [])].join(', ');
  if (text === '' || text === warnedOf || !isMainThread) return;
  warnedOf = text;
  process.emitWarning(
    `NO_PROXY: not understood, and asked through the proxy: ${text}. It takes names, addresses, and IPv4 networks like 10.0.0.0/8 or 10.1.`,
    'ProxyWarning',
  );
}

/**
 * An entry in Node's spelling, where a name does not mean what is below it, and networks are ranges.
 *
 * @returns `undefined` for what no host could be meant by, or more than Node can be told: networks of IPv6
 */
function understood(entry: string): string[] | undefined {
  if (entry === '*') return [entry];
  const [, network, bits] = /^(\d+\.\d+\.\d+\.\d+)\/(\d{1,2})$/.exec(entry) ?? [];
  if (network !== undefined && bits !== undefined) return rangeOf(network, Number(bits));
  const [, from, to] = /^([\d.]+)-([\d.]+)$/.exec(entry) ?? [];
  if (from !== undefined && to !== undefined) return isIPv4(from) && isIPv4(to) ? [entry] : undefined;
  const [, beginning] = /^((?:\d{1,3}\.){1,3})\*?$/.exec(entry) ?? [];
  if (beginning !== undefined) return networkFrom(beginning);
  const [, inBrackets, portOfIt = ''] = /^\[([^\]]*)\](:\d+)?$/.exec(entry) ?? [];
  const address = inBrackets ?? entry.replace(/\/128$/, '');
  if (isIPv6(address)) return [`${address}${portOfIt}`, `[${address}]${portOfIt}`];
  const [, host = '', port = ''] = /^(?:\*?\.)?([^:]*?)\.?(:\d+)?$/.exec(entry) ?? [];
  if (isIPv4(host)) return [host + port];
  const isName = /^[\p{L}\p{N}_-]+(\.[\p{L}\p{N}_-]+)*$/u.test(host) && !/^[\d.]+$/.test(host);
  if (!isName) return undefined;
  return port === '' ? [host, `.${host}`] : [host + port];
}

/** `10.1.` as many programs read it. */
function networkFrom(beginning: string): string[] | undefined {
  const given = beginning.split('.').filter((part) => part !== '');
  return rangeOf([...given, '0', '0', '0'].slice(0, 4).join('.'), given.length * 8);
}

function rangeOf(network: string, bits: number): string[] | undefined {
  const parts = network.split('.').map(Number);
  if (bits > 32 || parts.some((part) => part > 255)) return undefined;
  const size = 2 ** (32 - bits);
  const number = parts.reduce((sum, part) => sum * 256 + part, 0);
  const first = number - (number % size);
  const text = (value: number) =>
    [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.');
  return [`${text(first)}-${text(first + size - 1)}`];
}
