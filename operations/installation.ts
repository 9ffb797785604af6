import { existsSync, realpathSync } from 'node:fs';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where this walkeep is installed, in absolute paths. */
export interface Installation {
  /** `deploy/walkeep-wal`. */
  readonly shellClient: string;
  /** How PostgreSQL starts the full client: the Node program and walkeep's main file. */
  readonly fullClient: readonly [node: string, main: string];
}

/** Finds the installation by the place of this very file: one folder below the source's root, two below `dist`'s. */
export function thisInstallation(): Installation {
  const here = fileURLToPath(import.meta.url);
  const built = extname(here) === '.js';
  const sources = fileURLToPath(new URL('..', import.meta.url));
  const root = built && !existsSync(join(sources, 'deploy')) ? join(sources, '..') : sources;
  return {
    shellClient: join(root, 'deploy', 'walkeep-wal'),
    fullClient: [nodeProgram(root), join(sources, 'cli', `main${extname(here)}`)],
  };
}

/** The name that stays when Node is updated, where that is the Node that runs now. */
function nodeProgram(root: string): string {
  const stable = join(root, 'node_modules', '.bin', 'node');
  const isThis = existsSync(stable) && realpathSync(stable) === realpathSync(process.execPath);
  return isThis ? stable : process.execPath;
}
