import { bundleWorkflowCode, DefaultLogger, type WorkflowBundle } from '@temporalio/worker';
import { fileURLToPath } from 'node:url';

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

/** The workflows as they were before every patch, or before the given one. */
export async function oldBundle(before: 'patches' | 'outcomes' = 'patches'): Promise<WorkflowBundle> {
  return bundleWorkflowCode({
    workflowsPath: path('../../workflows/index.ts'),
    logger: new DefaultLogger('ERROR'),
    webpackConfigHook: (config) => {
      const alias = config.resolve?.alias;
      if (Array.isArray(alias)) throw new Error('the aliases are a list now');
      return {
        ...config,
        resolve: {
          ...config.resolve,
          alias: { ...alias, '@temporalio/workflow$': path(`before-${before}.ts`) },
        },
      };
    },
  });
}
