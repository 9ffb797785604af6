import { Option } from 'commander';
import { BackupError } from '../core/errors.ts';
import { DEFAULT_NAMESPACE } from '../workflows/interface.ts';

/** `-n`, as kubectl has it. */
export function namespaceOption(): Option {
  return new Option('-n, --namespace <namespace>', 'namespace of the cluster')
    .env('WALKEEP_NAMESPACE')
    .default(DEFAULT_NAMESPACE);
}

/** `-o` with the formats a command can write. */
export function outputOption(formats: readonly string[]): Option {
  return new Option('-o, --output <format>', 'output format').choices([...formats]);
}

/** Where the applied manifests and the secrets of this host lie. */
export function stateOption(): Option {
  return new Option('--state <directory>', "walkeep's state directory on this host").env('WALKEEP_STATE');
}

/** Splits `NS/NAME` or `NAME`. @throws BackupError `usage` */
export function parseClusterArgument(text: string): {
  readonly namespace?: string;
  readonly cluster: string;
} {
  const parts = text.split('/');
  if (parts.length > 2 || parts.some((part) => !/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(part))) {
    throw new BackupError('usage', `expected NAME or NAMESPACE/NAME of a cluster, got "${text}"`, {
      hint: 'names have lower-case letters, digits, "-" and "."',
    });
  }
  const [first = '', second] = parts;
  return second === undefined ? { cluster: first } : { namespace: first, cluster: second };
}

/** `HOST:PORT`, `[::1]:PORT`, `:PORT` or `PORT`. Without a host this one only. @throws BackupError `usage` */
export function parseAddress(text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:(?:\[([0-9A-Fa-f:]+)\]|([^:[\]]*)):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw new BackupError('usage', `expected HOST:PORT, got "${text}"`);
  return { host: match[1] ?? (match[2] || '127.0.0.1'), port };
}
