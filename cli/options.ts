import { InvalidArgumentError, Option } from 'commander';
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

/** Splits `NS/NAME` or `NAME`. */
export function parseClusterArgument(text: string): {
  readonly namespace?: string;
  readonly cluster: string;
} {
  const parts = text.split('/');
  if (parts.length > 2 || parts.some((part) => !/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(part))) {
    throw new InvalidArgumentError(`expected NAME or NAMESPACE/NAME, got "${text}"`);
  }
  const [first = '', second] = parts;
  return second === undefined ? { cluster: first } : { namespace: first, cluster: second };
}
