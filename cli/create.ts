import { Command } from 'commander';
import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { BackupError, messageOf } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import { MAX_SECRET_BYTES } from '../manifests/secret.ts';
import { withHost } from './host.ts';
import { namespaceOption, stateOption } from './options.ts';

interface SecretOptions {
  readonly namespace: string;
  readonly fromLiteral?: readonly string[];
  readonly fromFile?: readonly string[];
  readonly state?: string;
}

/** `walkeep create` */
export function createCommand(): Command {
  return new Command('create')
    .summary('create a secret on this host')
    .addCommand(new Command('secret').summary('create a secret on this host').addCommand(createGeneric()));
}

function createGeneric(): Command {
  return new Command('generic')
    .summary('keep keys and values in files that only the owner can read')
    .description(
      'Keeps a secret in the state directory of this host (files 0600), where the worker and the clients of PostgreSQL\n' +
        'find it. It never goes through Temporal. Run it where the worker runs. A secret of that name is replaced.',
    )
    .argument('<name>', 'the name manifests refer to')
    .addOption(namespaceOption())
    .option('--from-file <[key=]path...>', 'a value from a file; without a key its name is the key')
    .option(
      '--from-literal <key=value...>',
      'a value as written (it shows in the process list: prefer --from-file)',
    )
    .addOption(stateOption())
    .addHelpText(
      'after',
      '\nExamples:\n  walkeep create secret generic s3-credentials --from-file=ACCESS_KEY_ID=./id --from-file=SECRET_ACCESS_KEY=./key\n' +
        '  walkeep create secret generic s3-credentials --from-literal=ACCESS_KEY_ID=AKIA... -n production\n',
    )
    .action(async (name: string, options: SecretOptions) => {
      const values = new Map<string, Secret>();
      const add = (key: string, value: Secret) => {
        if (values.has(key))
          throw new BackupError('usage', `the key ${key} is given twice`, { hint: 'give it once' });
        values.set(key, value);
      };
      for (const literal of options.fromLiteral ?? []) {
        const at = literal.indexOf('=');
        // The text is not shown: it may be the value.
        if (at < 1)
          throw new BackupError('usage', '--from-literal takes KEY=VALUE', {
            hint: 'put the key and = before the value',
          });
        add(literal.slice(0, at), new Secret(literal.slice(at + 1)));
      }
      for (const source of options.fromFile ?? []) {
        const at = source.indexOf('=');
        const path = at < 0 ? source : source.slice(at + 1);
        add(at < 0 ? basename(path) : source.slice(0, at), await readValue(path));
      }
      if (values.size === 0) {
        throw new BackupError('usage', 'a secret needs at least one key', {
          hint: 'give --from-file or --from-literal',
        });
      }
      await withHost(options, async (host) => {
        const { outcome, directory } = await host.state.createSecret({
          namespace: options.namespace,
          name,
          values,
        });
        const word = outcome === 'changed' ? 'configured' : outcome;
        process.stdout.write(`secret/${name} ${word} (kept on this host: ${directory})\n`);
      });
    });
}

async function readValue(path: string): Promise<Secret> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new BackupError('usage', `can't read ${path}: ${messageOf(error)}`, {
      hint: 'check the path and its rights',
    });
  }
  if (bytes.length > MAX_SECRET_BYTES)
    throw new BackupError('usage', `${path} is larger than 1 MiB`, { hint: 'is it the right file?' });
  return new Secret(bytes);
}
